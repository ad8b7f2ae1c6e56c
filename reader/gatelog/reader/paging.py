"""Pages of a long read: small ones first, then as large as their bytes allow; the next one on its way meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from gatelog.schemas.envelope import RecordedEvent

FIRST_ROWS: Final = 100
GROWTH: Final = 8
PAGE_BYTES_MAX: Final = 16 * 1024 * 1024  # of payload, by the average of the page before

Fetch = Callable[[RecordedEvent | None, int], Awaitable[list[RecordedEvent]]]


async def pages(fetch: Fetch, limit: int, rows_max: int) -> AsyncGenerator[list[RecordedEvent]]:
    """Yield pages of at most ``rows_max`` events, ``limit`` events in all, until one is not full.

    ``fetch`` returns so many events behind the one given; None: from the start. From the second page on, the next one
    is fetched while this one is in use: who has taken a whole page goes on, as a rule.
    """
    rows = min(limit, FIRST_ROWS, rows_max)
    ahead: asyncio.Task[list[RecordedEvent]] | None = None
    is_first = True
    last: RecordedEvent | None = None
    try:
        while rows > 0:
            events = await (ahead or fetch(last, rows))
            ahead = None
            limit -= len(events)
            is_full = len(events) == rows
            rows = min(limit, rows_max, _grown(events)) if is_full else 0
            if rows > 0:
                last = events[-1]
                if not is_first:
                    ahead = asyncio.ensure_future(fetch(last, rows))
                    await asyncio.sleep(0)  # let it be sent
            is_first = False
            yield events
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def _grown(events: Sequence[RecordedEvent]) -> int:
    size = sum([len(event.raw) for event in events])
    return max(1, min(len(events) * GROWTH, PAGE_BYTES_MAX * len(events) // max(size, 1)))
