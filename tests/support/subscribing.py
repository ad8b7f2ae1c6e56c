"""Short ways to run a subscription in the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gatelog.core.settings import Settings
from gatelog.reader import Subscription
from support.waiting import until

TIMEOUT_S = 60


@asynccontextmanager
async def consuming(subscription: Subscription, settings: Settings, **options: int) -> AsyncIterator[None]:
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
