"""Decide again after a conflict."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gatelog.core.errors import ConflictError, InvalidInputError

_DELAY_MAX_S: Final = 0.02

T = TypeVar("T")


async def retry_on_conflict(decide: Callable[[], Awaitable[T]], *, attempts_max: int = 10) -> T:
    """Call ``decide`` (load the stream, decide, append) until it meets no conflict, and return what it returns.

    After a conflict it waits for a moment that is random and grows, so that deciders of one stream get out of
    each other's way.

    Raises:
        ConflictError: the last of ``attempts_max`` attempts met one too.
        Exception: whatever else ``decide`` raises, at once.
    """
    if attempts_max < 1:
        raise InvalidInputError(f"attempts_max is {attempts_max}; at least one attempt is needed.")
    for attempt in range(1, attempts_max):
        try:
            return await decide()
        except ConflictError:
            await asyncio.sleep(random.uniform(0, _DELAY_MAX_S * attempt))  # noqa: S311 - no secret
    return await decide()
