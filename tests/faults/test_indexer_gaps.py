"""Retention has removed what an indexer would read next: it stops where that held an event, and only there."""

import asyncio

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka import TopicPartition
from support.apart import connected, noted, parts
from support.databases import sharded
from support.kafka import Seen, records_of
from support.reconciling import append, publish, published
from support.running import running
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core import kafka
from gatelog.core.errors import LogMismatchError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.core.shards import shard_of
from gatelog.indexer import Indexer
from gatelog.indexer.gaps import GapError, settle
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader

ALL = -1  # up to the high watermark


def remove(settings: Settings, like: Seen, before: int = ALL) -> int:
    """Remove what a partition holds before an offset, as retention does; return where it begins now."""
    admin = kafka.admin(settings.kafka_properties)
    (future,) = admin.delete_records([TopicPartition(like.topic, like.partition, before)]).values()
    return int(future.result().low_watermark)


def abort(settings: Settings, like: Seen) -> None:
    """Leave a record of a transaction that was aborted."""
    producer = KafkaProducer({**settings.kafka_properties, "transactional.id": f"{settings.store}-stranger"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(like.topic, key=like.key, value=like.value, partition=like.partition)
    producer.flush(30)
    producer.abort_transaction(30)


async def next_offset(settings: Settings, like: Seen) -> int:
    async with connected(settings.dsn) as connection:
        found = await connection.fetchval(
            f"SELECT max(next_offset) FROM {settings.store}.index_offsets WHERE topic = $1 AND partition = $2",
            like.topic,
            like.partition,
        )
        return int(found)


@pytest.mark.parametrize("aborted", [False, True])
async def test_markers_and_aborted_records_are_no_loss(settings: Settings, aborted: bool) -> None:
    """Nothing else was behind the stored offset. Other partitions hold events that were not indexed yet."""
    async with Producer.connect(settings) as producer:
        first = await append(producer, "Note-1", "a", "b")
        await publish(settings, 2)
        seen = (await asyncio.to_thread(records_of, settings))[0]
        if aborted:
            await asyncio.to_thread(abort, settings, seen)
        later = await append(producer, "Other-1", "c", "d")
        await published(settings, 4)
        begin = await asyncio.to_thread(remove, settings, seen)
        assert begin > await next_offset(settings, seen), "the marker at least is gone"
        more = await append(producer, "Note-1", "e")
        async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:
            assert await reader.indexed([*first, *later, *more]) == [1, 2, 3, 4, 5]
            assert [event.position async for event in reader.all()] == [1, 2, 3, 4, 5]


async def test_one_event_behind_the_marker_is_a_loss(settings: Settings) -> None:
    """All but that one is indexed, or in Kafka still."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        seen = (await asyncio.to_thread(records_of, settings))[0]
        await append(producer, "Note-1", "b")
        await append(producer, "Other-1", "c")
        await published(settings, 3)
        begin = await asyncio.to_thread(remove, settings, seen)
        since = await next_offset(settings, seen)
        why = rf"partition {seen.partition}: offsets {since} to {begin - 1}\. 1 events .* the first at position 2\."
        with pytest.raises(LogMismatchError, match=why):
            async with asyncio.timeout(60):
                await run_all(asyncio.Event(), Indexer(settings))
    assert await next_offset(settings, seen) == since, "nothing was skipped"


async def test_a_record_that_was_kept_aside_is_no_loss(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Its position is missing in the index; the record is not."""
    store = settings.store
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a", "b")
        await publish(settings, 2)
        seen = (await asyncio.to_thread(records_of, settings))[1]
        await connection.execute(
            f"ALTER TABLE {store}.events DISABLE TRIGGER ALL; DELETE FROM {store}.events WHERE position = 2;"
            f"DELETE FROM {store}.index_frontier_log; INSERT INTO {store}.index_frontier_log VALUES (1)"
        )
        wanted = {(seen.topic, seen.partition): await next_offset(settings, seen)}
        await asyncio.to_thread(remove, settings, seen)
        with pytest.raises(LogMismatchError, match="the first at position 2"):
            await settle(settings, 0, wanted)
        await connection.execute(
            f'INSERT INTO {store}.unreadable_records (topic, partition, "offset", reason, headers) VALUES '
            "($1, $2, $3, 'as if it could not be read', jsonb_build_object('ce_position', encode('2', 'base64')))",
            seen.topic,
            seen.partition,
            seen.offset,
        )
        with pytest.raises(GapError, match="No event is missing"):
            await settle(settings, 0, wanted)


async def test_what_cannot_be_told_yet_is_neither_skipped_nor_a_loss(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """A tick is pending: whether its records were in Kafka, and removed, is for a relay to find out."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
    seen = (await asyncio.to_thread(records_of, settings))[0]
    since = await next_offset(settings, seen)
    await asyncio.to_thread(remove, settings, seen)
    await connection.execute(f"UPDATE {settings.store}.relay_log SET pending_events = 1")
    with pytest.raises(GapError, match="settled the tick that begins at position 2"):
        await settle(settings, 0, {(seen.topic, seen.partition): since})
    assert await next_offset(settings, seen) == since
    await connection.execute(f"UPDATE {settings.store}.relay_log SET pending_events = 0, position = 0")
    with pytest.raises(LogMismatchError, match="restored from an older state"):
        await settle(settings, 0, {(seen.topic, seen.partition): since})


async def test_what_other_shards_hold_or_have_to_read_is_no_loss(
    bare_settings: Settings, spare_dsns: list[str]
) -> None:
    """One shard has read all, and its next offset is behind what Kafka holds. The other one lags."""
    one, other = "Note-1", "Memo-5"
    assert [shard_of(stream.encode(), 2) for stream in (one, other)] == [0, 1]
    async with sharded(bare_settings, spare_dsns) as settings:
        await initialise(settings)
        async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:

            async def append_to(*streams: str) -> None:
                for stream in streams:
                    await producer.append(stream, noted(1), expected_version=ANY)

            async def index(of_one: int, of_other: int, *shards: int) -> None:
                """Let these shards run until the two of them hold so many events."""

                async def are_held() -> bool:
                    return [await rows(settings, number) for number in range(2)] == [of_one, of_other]

                async with running(*parts(settings, shards=shards)):
                    await until(are_held, f"the shards hold {of_one} and {of_other} events")

            await append_to(one, other, one)
            await index(2, 1, 0, 1)
            await append_to(other, one)
            await index(3, 1, 0)
            last = next(each for each in await asyncio.to_thread(records_of, settings) if each.key == one)
            await asyncio.to_thread(remove, settings, last)
            await append_to(one)
            await index(4, 1, 0)
            await index(4, 2, 0, 1)
            async with running(*parts(settings)):

                async def is_whole() -> bool:
                    return await reader.frontier() == 6

                await until(is_whole, "the log is whole")
            assert [event.position async for event in reader.all()] == [1, 2, 3, 4, 5, 6]


async def rows(settings: Settings, shard: int) -> int:
    async with connected(settings.shard_dsns[shard]) as connection:
        return int(await connection.fetchval(f"SELECT count(*) FROM {settings.store}.events"))
