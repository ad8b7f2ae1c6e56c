"""The indexer: what it leaves behind when it dies is put right by the next one."""

from functools import partial

import asyncpg
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


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
