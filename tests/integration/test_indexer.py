"""The indexer: what it leaves behind when it dies is put right by the next one."""

import asyncio
from functools import partial

import asyncpg
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.domain import topic_of
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.indexer.batches import BatchReader, place_of
from gatelog.indexer.rows import VERSION
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas.codec import Codec
from gatelog.schemas.registries import registry_of


async def test_frontier_left_behind_by_a_crash_is_caught_up(
    settings: Settings, producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    done = await producer.append("Note-1", [Noted(text="one"), Noted(text="two")], expected_version=ANY)
    async with running(Relay(settings), Indexer(settings)):
        assert await reader.indexed(done.event_ids) == [1, 2]
    # As if the last indexer had died between its rows' commit and the frontier's.
    await connection.execute(f"UPDATE {settings.store}.index_frontier_log SET position = 0")
    async with running(Indexer(settings)):
        await until(partial(_frontier_is, reader, 2), "the frontier is where the rows are")


async def test_jsonb_is_stored_or_not_and_reads_return_the_same(
    settings: Settings, producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    bare = settings.model_copy(update={"index_jsonb": False})
    for text, wanted in (("one", settings), ("two", bare)):
        done = await producer.append("Note-1", [Noted(text=text)], expected_version=ANY)
        async with running(Relay(settings), Indexer(wanted)):
            await reader.indexed(done.event_ids)
    assert [event.as_dict() async for event in reader.stream("Note-1")] == [{"text": "one"}, {"text": "two"}]
    data = f"SELECT data ->> 'text' AS text FROM {settings.store}.event_log ORDER BY position"
    assert [row["text"] for row in await connection.fetch(data)] == ["one", None]


async def _frontier_is(reader: Reader, position: int) -> bool:
    return await reader.frontier() == position


async def test_records_before_the_offset_of_an_assignment_are_passed_over(
    settings: Identified, producer: Producer
) -> None:
    """They were on their way when the partition was given anew, and come again from the offset that Postgres gave."""
    done = await producer.append("Note-1", [Noted(text=str(n)) for n in range(5)], expected_version=ANY)
    async with running(Relay(settings)):
        await producer.published(done)
    messages = await asyncio.to_thread(_consumed, settings, "Note", 5)
    place = place_of(messages[0])[0]
    async with asyncpg.create_pool(settings.dsn, min_size=1, max_size=1) as pool:
        codec = Codec(registry_of(settings, pool), register=False)
        reader = BatchReader(settings, codec, with_json=False)
        batch = await reader.read(messages, {place: place_of(messages[2])[1]})
        nothing = await reader.read(messages, {})
    assert [row[VERSION] for row in batch.rows] == [3, 4, 5]
    assert batch.upto == {place: place_of(messages[4])[1] + 1}
    assert (nothing.rows, nothing.upto, nothing.unreadable) == ([], {}, {})


def _consumed(settings: Settings, category: str, count: int) -> list[Message]:
    consumer = Consumer(
        {**settings.kafka_properties, "group.id": settings.store, "isolation.level": "read_committed"}
    )
    try:
        topic = topic_of(settings.store, category)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(settings.topic_partitions)])
        found: list[Message] = []
        while len(found) < count:
            found += [message for message in consumer.consume(count, timeout=1) if message.error() is None]
        return found
    finally:
        consumer.close()
