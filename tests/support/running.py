"""Services running in the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatelog.core.services import Service, run_all


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    """Run services until the block ends; one that fails fails the test."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_all(stop, *services))
    try:
        yield
    finally:
        stop.set()
        await task
