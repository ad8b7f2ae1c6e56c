"""Waiting for a fact, with a deadline; never for a time."""

import asyncio
from collections.abc import Awaitable, Callable

INTERVAL_S = 0.02


async def until(fact: Callable[[], Awaitable[bool]], what: str, timeout: float = 60.0) -> None:
    """Return when ``fact`` holds.

    Raises:
        AssertionError: it did not within ``timeout`` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            while not await fact():  # noqa: ASYNC110 - the fact is in another process: nobody can set an event
                await asyncio.sleep(INTERVAL_S)
    except TimeoutError:
        raise AssertionError(f"not within {timeout:g} s: {what}") from None
