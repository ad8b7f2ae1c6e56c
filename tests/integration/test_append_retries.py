"""Retries by event id: whoever asks, wherever the events have gone, the answer is that of the first time."""

import asyncio
from functools import partial

import asyncpg
import pytest
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.domain import ExpectedVersion
from gatelog.core.errors import EventIdReusedError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, NO_STREAM, STREAM_EXISTS, Producer, StreamAppend
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import NewEvent


async def outbox_is_empty(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> bool:
    return not await connection.fetchval(f"SELECT EXISTS (SELECT FROM {settings.store}.outbox)")


@pytest.mark.parametrize("stage", ["outbox", "index", "rotated"])
async def test_the_first_answer_comes_again_at_every_stage(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    stage: str,
) -> None:
    await producer.append("Note-1", [Noted(text="a")], expected_version=NO_STREAM)
    kinds: list[ExpectedVersion] = [1, ANY, STREAM_EXISTS]
    appends = {expected: [NewEvent(Noted(text=f"{n}")) for n in range(k)] for k, expected in enumerate(kinds, 1)}
    first = {
        expected: await producer.append("Note-1", events, expected_version=expected)
        for expected, events in appends.items()
    }
    new = [NewEvent(Noted(text="new"))]
    several = [StreamAppend("Note-2", new, NO_STREAM), StreamAppend("Note-3", [NewEvent(Noted(text="x"))], ANY)]
    first_several = await producer.append_streams(several)
    if stage != "outbox":
        rotating = settings.model_copy(update={"outbox_segment_events": 1})
        keepers = [OutboxKeeper(rotating)] if stage == "rotated" else []
        async with running(Relay(settings), Indexer(settings), *keepers):
            await reader.indexed([each.event_ids[0] for each in (*first.values(), *first_several)])
            if stage == "rotated":
                await until(partial(outbox_is_empty, connection, settings), "the outbox is empty")
    async with Producer.connect(settings) as restarted:
        for expected, events in appends.items():
            again = await restarted.append("Note-1", events, expected_version=expected)
            assert (again.first_version, again.version) == (first[expected].first_version, first[expected].version)
            assert again.known
        again_several = await restarted.append_streams(several)
        assert [(each.version, each.known) for each in again_several] == [(1, True), (1, True)]
        for stream, events in [("Note-9", new), ("Note-2", [*new, NewEvent(Noted(text="more"))])]:
            with pytest.raises(EventIdReusedError):
                await restarted.append(stream, events, expected_version=ANY)
    assert await reader.version("Note-1") == 7
    assert await reader.version("Note-9") == 0


async def test_a_retry_within_the_batch_of_others(producer: Producer, reader: Reader) -> None:
    event = NewEvent(Noted(text="once"))
    first = await producer.append("Note-1", [event], expected_version=0)
    answers = await asyncio.gather(
        *(producer.append(f"Note-a{n}", [Noted(text="x")], expected_version=0) for n in range(40)),
        producer.append("Note-1", [event], expected_version=0),
        *(producer.append(f"Note-b{n}", [Noted(text="x")], expected_version=0) for n in range(40)),
    )
    assert [answer.known for answer in answers] == [False] * 40 + [True] + [False] * 40
    assert answers[40].version == first.version
    assert await reader.version("Note-1") == 1
