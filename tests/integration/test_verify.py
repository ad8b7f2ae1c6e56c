"""``verify`` says exactly what differs between gate, outbox, index and topics, and where."""

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest
from support.kafka import records_of
from support.losses import delete_topic, write
from support.models import Noted
from support.processes import environment, gatelog
from support.reconciling import append, pipeline, publish
from support.running import running
from support.waiting import until

from gatelog.core.errors import InvalidInputError
from gatelog.core.settings import Settings
from gatelog.indexer.differences import Verified
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


async def found(settings: Settings, **bounds: int) -> dict[str, list[str]]:
    return (await verify(settings, silent, **bounds)).examples


async def tamper(connection: "asyncpg.Connection[asyncpg.Record]", table: str, change: str) -> None:
    """As only somebody could who owns the table."""
    await connection.execute(
        f"ALTER TABLE {table} DISABLE TRIGGER USER; {change.format(table)}; ALTER TABLE {table} ENABLE TRIGGER USER"
    )


@pytest.fixture
async def published(settings: Settings) -> Settings:
    """Three streams of two categories, indexed: Note-1 at positions 1, 2, 3, Other-1 at 4, 5, Note-2 at 6."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
        await append(producer, "Other-1", *"de")
        await append(producer, "Note-2", "f")
        await publish(settings, 6)
    return settings


async def test_it_agrees_while_everything_goes_on(settings: Settings) -> None:
    """Appends, ticks, indexing and rotations meanwhile are no differences."""
    stop = asyncio.Event()

    async def keep_appending(producer: Producer) -> None:
        nth = 0
        while not stop.is_set():
            await producer.append(f"Note-{nth % 7}", [Noted(text="x")] * 3, expected_version=ANY)
            nth += 1
            await asyncio.sleep(0.01)

    async with Producer.connect(settings) as producer, pipeline(settings):
        appending = asyncio.create_task(keep_appending(producer))
        done: list[Verified] = []

        async def has_compared_enough() -> bool:
            done.append(await verify(settings, silent))
            assert done[-1].agree, done[-1].examples
            return done[-1].indexed > 100

        await until(has_compared_enough, "a hundred events are compared")
        stop.set()
        await appending
    assert done[-1].streams == 7
    assert done[-1].records >= done[-1].indexed


async def test_what_is_not_indexed_yet_is_no_difference(settings: Settings) -> None:
    async with Producer.connect(settings) as producer:
        assert (await verify(settings, silent)).agree
        await append(producer, "Note-1", "a", "b")
        async with running(Relay(settings)):

            async def is_published() -> bool:
                return len(await asyncio.to_thread(records_of, settings)) == 2

            await until(is_published, "two records are in Kafka")
        await append(producer, "Note-1", "c")
        done = await verify(settings, silent)
    assert (done.agree, done.behind, done.waiting, done.streams) == (True, 2, 3, 1)


async def test_rows_of_the_index(published: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    events = f"{published.store}.events"
    await tamper(connection, events, "DELETE FROM {} WHERE position = 2")
    differs = await found(published)
    assert differs.keys() == {"missing in the index", "gap in a stream"}
    (missing,) = differs["missing in the index"]
    assert missing.startswith(f"position 2 (Note-1@2) at {published.store}.Note partition ")
    assert differs["gap in a stream"] == ["position 3 (Note-1@3): the index lacks version 2"]
    await tamper(connection, events, "UPDATE {} SET data = '\\x0262', data_json = '{{}}' WHERE position = 5")
    await tamper(connection, events, "UPDATE {} SET recorded_at = now(), metadata = '{{}}' WHERE position = 6")
    unlike = (await found(published))["index and Kafka differ"]
    assert [each.partition(" at ")[0] + each.rpartition(":")[2] for each in sorted(unlike)] == [
        "position 5 (Other-1@2) payload",
        "position 6 (Note-2@1) time, metadata",
    ]
    assert (await found(published, first=6)).keys() == {"index and Kafka differ"}
    assert await found(published, first=4, last=4) == {}


async def test_the_order_of_a_stream(published: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await tamper(connection, f"{published.store}.events", "UPDATE {} SET version = -version WHERE position < 3")
    await tamper(
        connection, f"{published.store}.events", "UPDATE {} SET version = 3 + version WHERE position < 3"
    )  # versions 2, 1, 3
    differs = await found(published)
    assert differs["out of order in a stream"] == ["position 1 (Note-1@2): the version before it is at position 2"]


async def test_the_gate(published: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    streams = f"{published.store}.streams"
    await connection.execute(f"UPDATE {streams} SET version = 4 WHERE stream = 'Note-1'")
    await connection.execute(f"UPDATE {streams} SET version = 1 WHERE stream = 'Other-1'")
    await connection.execute(f"DELETE FROM {streams} WHERE stream = 'Note-2'")
    assert sorted((await found(published))["gate differs"]) == [
        "Note-1: the gate says version 4, index and outbox end at 3",
        "Other-1: the gate says version 1, index and outbox end at 2",
        "position 5 (Other-1@2): the gate says that the stream ends at version 1",
        "position 6 (Note-2@1): the gate does not know the stream",
    ]


async def test_the_outbox(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
    await tamper(connection, f"{settings.store}.outbox_0", "DELETE FROM {} WHERE version = 2")
    assert await found(settings) == {"outbox differs": ["Note-1@3: nobody holds version 2"]}


async def test_topics(published: Settings, tmp_path: Path) -> None:
    """Copies, lies, rubbish; then a topic is deleted."""
    records = {record.position: record for record in await asyncio.to_thread(records_of, published)}
    ours = records[3].headers
    twice = {**ours, "ce_type": "Other"}
    lies = [
        ours,
        twice,
        {**ours, "ce_position": "99"},
        {**ours, "ce_position": "last"},
        {**ours, "ce_source": "/other"},
    ]
    await asyncio.to_thread(write, published, records[3], lies)
    done = await verify(published, silent)
    assert (done.foreign, done.copies) == (1, 1)
    assert done.differences == {"repeated in Kafka": 1, "position was never given": 1, "unreadable in Kafka": 1}
    assert "position 99" in done.examples["position was never given"][0]
    await asyncio.to_thread(delete_topic, published, "Note")
    shown = await asyncio.to_thread(gatelog, ["verify", "--json"], environment(published), tmp_path)
    assert shown.returncode == 8, shown.stderr
    report = json.loads(shown.stdout)
    assert report["examples"]["missing in Kafka"] == ["positions 1 to 3", "position 6"]
    assert report["differences"]["missing in Kafka"] == 4
    assert report["examples"]["topic is gone"] == [f"{published.store}.Note"]


async def test_positions_that_were_not_given_cannot_be_compared(published: Settings) -> None:
    with pytest.raises(InvalidInputError, match=r"Positions 5 to 7 cannot be compared: 6 are published"):
        await verify(published, silent, first=5, last=7)
