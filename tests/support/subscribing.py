"""Short ways to run a subscription in the test's own process, and to give it something to do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Projection, Subscription
from support.models import Noted
from support.waiting import until

TIMEOUT_S = 60


async def append(producer: Producer, stream: str, *texts: str) -> None:
    """Append notes with these texts."""
    await producer.append(stream, [Noted(text=text) for text in texts], expected_version=ANY)


async def published(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings, position: int) -> None:
    """Wait until the relay has reported a position."""

    async def is_published() -> bool:
        return bool(await connection.fetchval(f"SELECT position FROM {settings.store}.relay") >= position)

    await until(is_published, f"position {position} is published")


@asynccontextmanager
async def consuming(
    subscription: Subscription | Projection, settings: Settings, **options: int
) -> AsyncIterator[None]:
    """Run a subscription until the block ends; it must end well."""
    stop = asyncio.Event()
    task = asyncio.create_task(subscription.run(stop, settings, **options))
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(TIMEOUT_S):
            await task


async def holds(fact: Callable[[], bool], what: str) -> None:
    """Wait for something that this process does."""

    async def asked() -> bool:
        return fact()

    await until(asked, what)
