"""Where retention no longer reaches back, the index tells what is gone, and hands over to Kafka exactly."""

import asyncio
from typing import Literal

import pytest
from confluent_kafka import TopicPartition
from support.projections import Connection, at_work, fill, has, keeping, positions, schema_of
from support.running import running
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.errors import HistoryGoneError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.reader.subscriptions import history
from gatelog.reader.subscriptions.topics import Topics


async def forget(settings: Settings) -> None:
    """Do what retention does: remove every record that is in the topics now."""
    topics = Topics(settings, None)
    places = [(topic, p) for topic, count in (await topics.partitions()).items() for p in range(count)]
    ends = await topics.ends(places)
    admin = kafka.admin(settings.kafka_properties)
    asked = admin.delete_records([TopicPartition(*place, end) for place, end in ends.items()])
    for future in asked.values():
        await asyncio.to_thread(future.result, 30)


async def indexed(reader: Reader, position: int) -> None:
    async def is_there() -> bool:
        return await reader.frontier() >= position

    await until(is_there, f"position {position} is indexed")


@pytest.mark.parametrize("order", ["partition", "total"])
async def test_nothing_is_missed_or_doubled_where_the_topics_have_forgotten(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    pipeline: None,
    rows: Connection,
    order: Literal["partition", "total"],
) -> None:
    projection = keeping("late", settings, order=order, categories=["Note", "Bill"])
    await projection.prepare(settings)
    schema = schema_of("late", settings)
    await fill(producer, 60)
    await indexed(reader, 60)
    await forget(settings)
    await fill(producer, 30)  # some in Kafka, and perhaps not in the index
    async with at_work(settings, projection):
        await fill(producer, 30)
        await has(rows, schema, 80)
    await fill(producer, 60)
    await indexed(reader, 180)
    await forget(settings)  # from the middle of where it was
    async with at_work(settings, projection):
        await has(rows, schema, 120)
        await fill(producer, 30)
        await indexed(reader, 210)
        await has(rows, schema, 140)
    expected = [event.position async for event in reader.category("Note", "Bill")]
    found = await positions(rows, schema)
    assert sorted(found) == expected
    assert order == "partition" or found == expected


async def test_what_is_nowhere_is_named(
    settings: Settings, producer: Producer, rows: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "INDEX_PATIENCE_S", 0.5)
    projection = keeping("lost", settings, categories=["Note"])
    await projection.prepare(settings)
    async with running(Relay(settings), Indexer(settings)):
        await fill(producer, 10, ["Note"])
        async with Reader.connect(settings) as reader:
            await indexed(reader, 10)
    async with running(Relay(settings)):
        await fill(producer, 10, ["Note"])

        async def is_published() -> bool:
            return bool(await rows.fetchval(f"SELECT position FROM {settings.store}.relay") == 20)

        await until(is_published, "all is published")
    await forget(settings)
    with pytest.raises(HistoryGoneError, match="up to position 10 only"):
        await projection.run(asyncio.Event(), settings)
    assert await positions(rows, schema_of("lost", settings)) == []
