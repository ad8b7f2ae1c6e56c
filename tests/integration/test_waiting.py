"""Waiting until an append is published, and until it is indexed."""

import asyncio

import pytest
from support.kafka import records_of
from support.models import Noted
from support.running import running

from gatelog.core.errors import WaitTimeoutError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


async def test_published_means_that_kafka_holds_it(settings: Settings, producer: Producer) -> None:
    small_ticks = settings.model_copy(update={"tick_events_max": 3})
    first = [await producer.append(f"Note-{n}", [Noted(text="x")] * 2, expected_version=ANY) for n in range(10)]
    with pytest.raises(WaitTimeoutError, match=r"20 of 20 events are not published.*Is a relay running"):
        await producer.published(*first, timeout=0.1)
    async with running(Relay(small_ticks)):
        for each in reversed(first):
            await producer.published(each)
            held = {record.event_id for record in await asyncio.to_thread(records_of, settings)}
            assert set(each.event_ids) <= held
        await producer.published()
    again = await producer.append("Note-1", [Noted(text="later")], expected_version=ANY)
    with pytest.raises(WaitTimeoutError, match="1 of 21 events"):
        await producer.published(*first, again, timeout=0.1)


async def test_published_and_indexed_long_ago(settings: Settings, producer: Producer, reader: Reader) -> None:
    """When the outbox has forgotten an event, it is published and indexed."""
    one_by_one = settings.model_copy(update={"outbox_segment_events": 1, "outbox_snapshot_age_max_s": 0.0})
    async with running(Relay(settings), OutboxKeeper(one_by_one), Indexer(settings)):
        first = await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)
        for number in range(5):
            done = await producer.append(f"Note-{number}", [Noted(text="y")], expected_version=ANY)
            await producer.published(done)
            assert await reader.indexed(done.event_ids) == [number + 2]
        await producer.published(first, done)
        assert await reader.indexed([*first.event_ids, *done.event_ids]) == [1, 6]
        assert await reader.indexed([]) == []
