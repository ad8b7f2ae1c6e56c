"""Where retention no longer reaches back, the index tells what is gone, and hands over to Kafka exactly."""

import asyncio
from typing import Literal

import pytest
from support.projections import Connection, at_work, fill, has, keeping, positions, schema_of
from support.retention import forget, indexed
from support.running import running
from support.waiting import until

from gatelog.core.errors import HistoryGoneError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.reader.subscriptions import history


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
    await fill(producer, 30)
    async with at_work(settings, projection):
        await has(rows, schema, 20)
    await fill(producer, 60)
    await indexed(reader, 90)
    await forget(settings)  # from where it was, which is another position in each partition
    await fill(producer, 30)  # in Kafka, and perhaps not in the index
    async with at_work(settings, projection):
        await fill(producer, 30)
        await has(rows, schema, 100)
    other = keeping("later", settings, order=order, categories=["Note", "Bill"])
    await other.prepare(settings)
    await indexed(reader, 150)
    await forget(settings)
    async with at_work(settings, other):  # from the beginning
        await fill(producer, 30)
        await has(rows, schema_of("later", settings), 120)
    expected = [event.position async for event in reader.category("Note", "Bill")]
    for found, wanted in (
        (await positions(rows, schema), expected[:100]),
        (await positions(rows, schema_of("later", settings)), expected),
    ):
        assert sorted(found) == wanted
        assert order == "partition" or found == wanted


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


@pytest.mark.parametrize("order", ["partition", "total"])
async def test_an_index_that_is_ahead_in_some_partitions_hands_over_exactly(
    settings: Settings, producer: Producer, rows: Connection, order: Literal["partition", "total"]
) -> None:
    """What it lacked when the handover was fixed is in Kafka behind that place, and in the index by then."""
    schema = schema_of("skewed", settings)
    projection = keeping("skewed", settings, order=order, start_after=5)  # from the index, whatever Kafka has
    await projection.prepare(settings)
    single = settings.model_copy(update={"index_rows_max": 1})
    events = f"{settings.store}.indexed_events"
    async with running(Relay(settings)):
        await fill(producer, 60)

        async def is_published() -> bool:
            return bool(await rows.fetchval(f"SELECT position + pending_events >= 60 FROM {settings.store}.relay"))

        async def is_skewed() -> bool:
            return bool(await rows.fetchval(f"SELECT count(*) >= 10 AND max(position) > count(*) FROM {events}"))

        async def is_claimed() -> bool:
            return bool(
                await rows.fetchval(
                    f"SELECT count(*) = 9 FROM {settings.store}.projection_partitions WHERE generation > 0"
                )
            )

        await until(is_published, "all is published")
        async with running(Indexer(single)):
            await until(is_skewed, "the index is ahead in some partitions")
        assert await rows.fetchval(f"SELECT count(*) < 55 FROM {events}")
        async with at_work(settings, projection):
            await until(is_claimed, "the projection asks for the handover")
            async with running(Indexer(single)):
                await has(rows, schema, 55)
    found = await positions(rows, schema)
    assert sorted(found) == list(range(6, 61))
    assert order == "partition" or found == sorted(found)
