"""A context manager that is left by an exception or a cancellation ends at once, whatever is under way."""

import asyncio

import asyncpg
import pytest
from support.models import Noted
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Appended, Producer
from gatelog.reader import Reader

AT_ONCE_S = 5.0  # the bound that is promised


async def test_a_producer_that_has_appended_is_left_by_an_exception(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what is raised inside is what is tried
        async with asyncio.timeout(AT_ONCE_S), Producer.connect(settings) as producer:
            await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
            raise ZeroDivisionError


async def test_a_producer_is_cancelled_while_an_append_waits(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    waiting: asyncio.Future[Appended] | None = None

    async def program() -> None:
        nonlocal waiting
        async with Producer.connect(settings) as producer:
            await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {settings.store}.streams IN ACCESS EXCLUSIVE MODE")
                waiting = asyncio.ensure_future(producer.append("Note-2", [Noted(text="b")], expected_version=ANY))
                await asyncio.Event().wait()

    before = asyncio.all_tasks()
    task = asyncio.create_task(program())

    async def waits() -> bool:
        return waiting is not None

    await until(waits, "an append is under way")
    task.cancel()
    async with asyncio.timeout(AT_ONCE_S):
        await asyncio.wait([task])
        assert waiting is not None
        await asyncio.wait([waiting])  # its caller is not left waiting for append_timeout_s either
        await asyncio.wait([task, *(asyncio.all_tasks() - before)])  # nor does anything go on in the background
    assert task.cancelled()
    assert waiting.cancelled()


async def test_a_reader_is_left_by_an_exception_while_a_read_is_under_way(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - as above
        async with asyncio.timeout(AT_ONCE_S), Reader.connect(settings) as reader:
            source = reader._source
            reading = asyncio.create_task(source._pool.execute("SELECT pg_sleep(60)"))  # type: ignore[attr-defined] # a read that takes long
            await asyncio.sleep(0)
            raise ZeroDivisionError
    await asyncio.wait([reading])
    reading.exception()
