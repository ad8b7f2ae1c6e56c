"""What happens to topics that are indexed: made anew, their group reset, records removed too early."""

import asyncio

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.cimpl import NewTopic
from support.kafka import Seen, records_of
from support.losses import delete_topic, topics_are_gone, truncate, write
from support.reconciling import append, publish, republish
from support.running import running
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.errors import LogMismatchError
from gatelog.core.identity import Identified
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


async def refused(settings: Settings) -> None:
    async with asyncio.timeout(60):
        await run_all(asyncio.Event(), Indexer(settings))


def make_topic(settings: Settings, category: str) -> bool:
    """Say whether it could be made: the deletion of the old one takes a moment."""
    admin = kafka.admin(settings.kafka_properties)
    new = NewTopic(topic_of(settings.store, category), num_partitions=settings.topic_partitions, replication_factor=1)
    (future,) = admin.create_topics([new]).values()
    return future.exception(timeout=30) is None


@pytest.mark.parametrize("running_meanwhile", [False, True])
async def test_a_topic_that_was_made_anew_is_recognised(settings: Settings, running_meanwhile: bool) -> None:
    """Also when it has grown longer than it was: its offsets are not those that Postgres remembers."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
    indexing = asyncio.create_task(refused(settings)) if running_meanwhile else None
    (ours,) = await asyncio.to_thread(records_of, settings)
    await asyncio.to_thread(delete_topic, settings, "Note")

    async def made() -> bool:
        return await asyncio.to_thread(make_topic, settings, "Note")

    await until(made, "the topic is made anew")
    await asyncio.to_thread(write_many, settings, ours)
    seen = r"made again since they were indexed: .*\.Note\..*republish"
    if running_meanwhile:
        seen += "|is gone from Kafka|version 2 is neither in the index"
    with pytest.raises(LogMismatchError, match=seen):
        await (indexing or refused(settings))
    async with Reader.connect(settings) as reader:
        assert [event.id async for event in reader.all()] == [ours.event_id]


async def test_a_topic_that_was_deleted_ends_the_indexer(settings: Settings) -> None:
    """The client may only take its partitions away: then nobody would be waiting for anything."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await append(producer, "Memo-1", "b")
        await publish(settings, 2)
    indexing = asyncio.create_task(refused(settings))
    async with Reader.connect(settings) as reader:
        await until(lambda: _is_indexed(reader, 2), "all is indexed")
    await asyncio.to_thread(delete_topic, settings, "Note")
    with pytest.raises(LogMismatchError, match=r"\.Note\b.* gone from Kafka|gone from Kafka: .*\.Note\.") as raised:
        await indexing
    assert "republish" in str(raised.value)


async def _is_indexed(reader: Reader, position: int) -> bool:
    return await reader.frontier() >= position


def test_a_topic_that_is_not_there_any_more_is_named(settings: Settings) -> None:
    """What librdkafka says of a deleted one, where it does not just take its partitions away."""
    own = kafka.client_properties(settings.kafka_properties, group_id=settings.store, auto_offset_reset="error")
    consumer = Consumer(own)
    consumer.subscribe([topic_of(settings.store, "Gone")])

    def poll() -> None:
        for _ in range(300):
            kafka.poll(consumer, settings.kafka_properties, 0.1, 10)

    try:
        with pytest.raises(LogMismatchError, match=r"\.Gone' is gone from Kafka.*republish"):
            poll()
    finally:
        consumer.close()


def write_many(settings: Settings, like: Seen) -> None:
    write(settings, like, [{**like.headers, "ce_position": str(n), "ce_streamversion": str(n)} for n in range(1, 9)])


async def test_the_groups_offsets_in_kafka_mean_nothing(settings: Identified) -> None:
    """Somebody resets the group, to the beginning or past the end: Postgres' offsets are those that count."""
    async with Producer.connect(settings) as producer:
        first = await append(producer, "Note-1", "a", "b")
        await publish(settings, 2)
        for offset in (0, 10_000):
            await asyncio.to_thread(commit, settings, offset)
            first += await append(producer, "Note-1", "c")
            async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:
                assert await reader.indexed(first) == list(range(1, len(first) + 1))
                assert [event.id async for event in reader.all()] == first


def commit(settings: Identified, offset: int) -> None:
    group = settings.named("indexer")
    consumer = Consumer({**settings.kafka_properties, "group.id": group, "enable.auto.commit": False})
    places = [TopicPartition(topic_of(settings.store, "Note"), p, offset) for p in range(settings.topic_partitions)]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


async def test_records_that_retention_removed_before_they_were_indexed_are_named(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await append(producer, "Note-1", "b", "c", "d")
        async with running(Relay(settings)):

            async def is_published() -> bool:
                return len(await asyncio.to_thread(records_of, settings)) == 4

            await until(is_published, "four records are in Kafka")
    records = await asyncio.to_thread(records_of, settings)
    await asyncio.to_thread(truncate, settings, records[3])
    first, last = records[0].offset + 1, records[3].offset - 1
    with pytest.raises(LogMismatchError, match=rf"partition {records[0].partition}: offsets {first} to {last}\. "):
        await refused(settings)
    assert await connection.fetchval(f"SELECT position FROM {settings.store}.index_frontier") == 1
    # The way back: what is not indexed is in the outbox.
    await asyncio.to_thread(delete_topic, settings, "Note")
    await topics_are_gone(settings)
    assert (await republish(settings)).from_outbox == 3
    assert [r.event_id for r in await asyncio.to_thread(records_of, settings)] == [r.event_id for r in records]
    async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:
        assert await reader.indexed([r.event_id for r in records]) == [1, 2, 3, 4]
