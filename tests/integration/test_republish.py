"""Topics that were lost are filled from the index and the outbox, record for record as the relay wrote them."""

import asyncio
import json
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from support.kafka import Seen, records_of
from support.losses import delete_topic, lose_topic, topics_are_gone, truncate
from support.models import Noted
from support.processes import environment, gatelog
from support.reconciling import append, look, pipeline, publish, republish
from support.running import running
from support.waiting import until

from gatelog.core.errors import LogMismatchError, ReconcileRefusedError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.producer.republish import Plan, republication
from gatelog.schemas import NewEvent


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


async def plan_of(settings: Settings) -> Plan:
    async with republication(settings, silent) as made:
        return await made.look()


def content(records: list[Seen]) -> list[tuple[object, ...]]:
    """Everything about records but their offsets, which markers of transactions move."""
    return [(r.topic, r.partition, r.key, [*r.headers.items()], r.value, r.timestamp) for r in records]


async def some_events(producer: Producer) -> None:
    """Of all shapes: metadata, correlation, several categories, many streams in each partition."""
    for nth in range(40):
        own = NewEvent(
            Noted(text=f"é{nth}"),
            metadata={"n": nth} if nth % 3 else None,
            correlation_id=UUID(int=nth + 1) if nth % 2 else None,
        )
        await producer.append(f"Note-{nth % 11}", [own, Noted(text="x")], expected_version=ANY)
        await producer.append(f"Bücher-{nth % 5}", [Noted(text="y" * nth)], expected_version=ANY)


async def test_lost_topics_are_filled_with_the_same_records(settings: Settings, tmp_path: Path) -> None:
    """One of two, by the command line; relay and indexer go on, as if nothing had been lost."""
    env = environment(settings)
    async with Producer.connect(settings) as producer:
        await some_events(producer)
        await publish(settings, 120)
        before = await asyncio.to_thread(records_of, settings)
        await lose_topic(settings, "Bücher")
        (due,) = await append(producer, "Note-1", "due")
        with pytest.raises(LogMismatchError):
            await run_all(asyncio.Event(), Relay(settings))
        dry = await asyncio.to_thread(gatelog, ["republish"], env, tmp_path)
        assert dry.returncode == 8, dry.stderr
        assert "40 events are missing, positions 3 to 120 (it did not exist; 3 partitions)" in dry.stdout
        assert "`gatelog republish --apply` writes 40 records" in dry.stdout
        assert len(await asyncio.to_thread(records_of, settings)) == 80, "a look writes nothing"

        done = await asyncio.to_thread(gatelog, ["republish", "--apply", "--json"], env, tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["events"], report["kafka_position"], len(report["anew"])) == (40, 120, 1)
        assert content(await asyncio.to_thread(records_of, settings)) == content(before)
        again = await asyncio.to_thread(gatelog, ["republish"], env, tmp_path)
        assert (again.returncode, "lacks nothing" in again.stdout) == (0, True)
        assert (await look(settings)).agree

        async with pipeline(settings) as reader:
            assert await reader.indexed([due]) == [121]
            assert [event.position async for event in reader.all()] == list(range(1, 122))


async def test_events_that_no_index_had_seen_come_from_the_outbox(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The index was behind, unevenly, when the topics were lost: nothing is lost, and no position moves."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a", "b")
        await publish(settings, 2)
        await append(producer, "Other-1", "c", "d")
        await append(producer, "Note-1", "e")
        await append(producer, "Other-1", "f")
        async with running(Relay(settings)):

            async def is_published() -> bool:
                return len(await asyncio.to_thread(records_of, settings)) == 6

            await until(is_published, "six records are in Kafka")
        before = await asyncio.to_thread(records_of, settings)
        await asyncio.to_thread(delete_topic, settings, "Other")
        # The indexer has not come to either of them; the outbox holds them until it has.
        await asyncio.to_thread(delete_topic, settings, "Note")
        await topics_are_gone(settings)
        plan = await plan_of(settings)
        assert (plan.events, plan.from_outbox, plan.nowhere) == (6, 4, 0)
        await republish(settings)
        assert content(await asyncio.to_thread(records_of, settings)) == content(before)
        (more,) = await append(producer, "Note-1", "g")
        async with pipeline(settings) as reader:
            assert await reader.indexed([more]) == [7]
            assert [event.position async for event in reader.all()] == list(range(1, 8))
    assert await connection.fetchval(f"SELECT count(*) FROM {settings.store}.unreadable_records") == 0


async def test_what_would_break_the_order_is_refused(settings: Settings) -> None:
    """A topic that lost its beginning has to be emptied first; then all of it comes back."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abcd")
        await publish(settings, 4)
        before = await asyncio.to_thread(records_of, settings)
        await asyncio.to_thread(truncate, settings, before[2])
        with pytest.raises(ReconcileRefusedError, match=r"Note' lacks 2 events before others.*kafka-topics --delete"):
            await republish(settings)
        assert len(await asyncio.to_thread(records_of, settings)) == 2, "nothing was written"
        await asyncio.to_thread(delete_topic, settings, "Note")
        await topics_are_gone(settings)
        await republish(settings)
        assert content(await asyncio.to_thread(records_of, settings)) == content(before)
        await append(producer, "Note-1", "e")
        await publish(settings, 5)


async def test_positions_that_nobody_holds_are_named(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    store = settings.store
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
        await publish(settings, 3)
    await asyncio.to_thread(delete_topic, settings, "Note")
    await topics_are_gone(settings)
    await connection.execute(
        f"ALTER TABLE {store}.events DISABLE TRIGGER ALL; DELETE FROM {store}.events WHERE position = 2;"
        f"ALTER TABLE {store}.outbox_0 DISABLE TRIGGER ALL; DELETE FROM {store}.outbox_0;"
        f"ALTER TABLE {store}.outbox_1 DISABLE TRIGGER ALL; DELETE FROM {store}.outbox_1"
    )
    with pytest.raises(ReconcileRefusedError, match=r"1 positions are in neither Kafka nor index.*: 2\. "):
        await republish(settings)
