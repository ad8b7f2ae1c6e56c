"""Whatever an indexer was made to skip: it writes no version whose predecessor is missing."""

import asyncio

import asyncpg
import pytest
from support.losses import write
from support.reconciling import append, publish, published
from support.running import running
from support.waiting import until

from gatelog.core.errors import LogMismatchError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer


async def test_a_version_without_its_predecessor_is_not_written(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(producer, "Note-1", "a")
    await publish(settings, 1)
    await append(producer, "Note-1", "b", "c")
    last = (await published(settings, 3))[-1]
    moved = f"UPDATE {settings.store}.index_offsets SET next_offset = $1, leader_epoch = NULL WHERE next_offset > 0"
    await connection.execute(moved, last.offset)
    with pytest.raises(LogMismatchError, match=r"'Note-1'.*version 3, but version 2 is neither.*gatelog verify"):
        async with asyncio.timeout(60):
            await run_all(asyncio.Event(), Indexer(settings))
    assert await connection.fetchval(f"SELECT max(version) FROM {settings.store}.events") == 1
    await connection.execute(moved, last.offset - 1)
    await publish(settings, 3)


async def test_a_predecessor_that_was_kept_aside_is_one(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Its successors are indexed; who has kept it knows of it."""
    await append(producer, "Note-1", "a")
    await publish(settings, 1)
    await append(producer, "Note-1", "b", "c")
    *_, second, third = await published(settings, 3)
    await asyncio.to_thread(write, settings, second, [{**second.headers, "ce_time": "never"}, third.headers])
    moved = f"UPDATE {settings.store}.index_offsets SET next_offset = $1, leader_epoch = NULL WHERE next_offset > 0"
    await connection.execute(moved, third.offset + 1)
    async with running(Indexer(settings)):

        async def is_there() -> bool:
            return bool(await connection.fetchval(f"SELECT max(version) = 3 FROM {settings.store}.events"))

        await until(is_there, "the successor is indexed")
