"""Topics that were lost are filled from an index in other databases: all shards, merged on position."""

import asyncio
import random
from functools import partial
from uuid import UUID

import pytest
from support.apart import connected, noted, parts, rotate
from support.databases import sharded
from support.kafka import Seen, records_of
from support.losses import lose_topic
from support.models import Noted
from support.reconciling import look, republish
from support.running import running
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.errors import ReconcileRefusedError
from gatelog.core.settings import Settings
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import NewEvent

STREAMS = [f"{category}-{number}" for category in ("Note", "Memo") for number in range(2, 7)]  # of both shards


def content(records: list[Seen]) -> list[tuple[object, ...]]:
    """Everything about records but their offsets, which markers of transactions move."""
    return [(r.topic, r.partition, r.key, [*r.headers.items()], r.value, r.timestamp) for r in records]


async def held(settings: Settings, number: int) -> bool:
    return len(await asyncio.to_thread(records_of, settings)) == number


async def append(producer: Producer, rounds: int) -> int:
    for nth in range(rounds):
        for stream in STREAMS:
            event = NewEvent(Noted(text=f"é{nth}"), metadata={"n": nth}, correlation_id=UUID(int=nth + 1))
            await producer.append(stream, [event, *noted(1)], expected_version=ANY)
    return rounds * len(STREAMS) * 2


async def test_lost_topics_are_filled_with_the_same_records(
    bare_settings: Settings, spare_dsns: list[str], chance: random.Random, long: bool
) -> None:
    number = chance.choice([1, 2]) if long else 2  # databases
    async with sharded(bare_settings, spare_dsns[:number]) as settings:
        await initialise(settings)
        await lose_and_fill(settings, number)


async def lose_and_fill(settings: Settings, number: int) -> None:
    """One topic is lost while all is indexed and out of the outbox; then both, while some was never indexed."""
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        total = await append(producer, 3)
        async with connected(settings.dsn) as gate, running(*parts(settings)):
            await rotate(settings, gate)
            await until(partial(held, settings, total), f"{total} records are in Kafka")
        before = await asyncio.to_thread(records_of, settings)
        await lose_topic(settings, "Memo")
        plan = await republish(settings)
        assert (plan.events, plan.from_outbox, len(plan.offsets)) == (total // 2, 0, number)
        assert content(await asyncio.to_thread(records_of, settings)) == content(before)

        more = await append(producer, 1)
        async with running(*parts(settings, shards=range(number - 1))):  # one of them, or the only one, is behind
            await until(partial(held, settings, total + more), "all is in Kafka")
        before = await asyncio.to_thread(records_of, settings)
        for category in ("Note", "Memo"):
            await lose_topic(settings, category)
        plan = await republish(settings)
        assert plan.events == total + more
        assert plan.from_outbox > 0
        assert content(await asyncio.to_thread(records_of, settings)) == content(before)
        assert (await look(settings)).agree

        total += more + await append(producer, 1)

        async def is_indexed() -> bool:
            return await reader.frontier() == total

        async with running(*parts(settings)):
            await until(is_indexed, "indexers and relay go on, as if nothing had been lost")
        assert [event.position async for event in reader.all()] == list(range(1, total + 1))
    done = await verify(settings, lambda *_: None)
    assert (done.agree, done.copies, done.unreadable) == (True, 0, 0), done.examples


async def test_what_no_shard_holds_is_named(shards: Settings) -> None:
    async with Producer.connect(shards) as producer, connected(shards.dsn) as gate:
        await append(producer, 1)
        async with running(*parts(shards)):
            await rotate(shards, gate)
    await lose_topic(shards, "Note")
    async with connected(shards.shard_dsns[1]) as shard:
        position = await shard.fetchval(f"SELECT min(position) FROM {shards.store}.events WHERE category = 'Note'")
        await shard.execute(
            f"ALTER TABLE {shards.store}.events DISABLE TRIGGER ALL;"
            f"DELETE FROM {shards.store}.events WHERE position = {position}"
        )
    with pytest.raises(ReconcileRefusedError, match=rf"1 positions are in neither Kafka nor index.*: {position}\. "):
        await republish(shards)
