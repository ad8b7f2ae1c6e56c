"""Pages of a long read: small ones first, then as large as their bytes allow; the next one on its way meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from gatelog.schemas.envelope import RecordedEvent

FIRST_ROWS: Final = 100  # of a read: most streams are shorter
GROWTH: Final = 8
PAGE_BYTES_MAX: Final = 16 * 1024 * 1024  # of payload, by the average of the page before

Fetch = Callable[[RecordedEvent, int], Awaitable[list[RecordedEvent]]]


async def pages_behind(
    page: list[RecordedEvent], fetch: Fetch, limit: int, rows_max: int
) -> AsyncGenerator[list[RecordedEvent]]:
    """Yield the pages behind a first one that was full: at most ``rows_max`` events each, ``limit`` in all.

    ``fetch`` returns so many events behind the one given. While a page is in use the next one is fetched: who has
    taken a whole page goes on, as a rule.
    """
    rows = min(limit, rows_max, _grown(page))
    ahead: asyncio.Future[list[RecordedEvent]] | None = None
    try:
        while rows > 0:
            page = await (ahead or fetch(page[-1], rows))
            ahead = None
            limit -= len(page)
            rows = min(limit, rows_max, _grown(page)) if len(page) == rows else 0
            if rows > 0:
                ahead = asyncio.ensure_future(fetch(page[-1], rows))
                await asyncio.sleep(0)  # let it be sent
            yield page
    finally:
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def _grown(page: Sequence[RecordedEvent]) -> int:
    size = sum([len(event.raw) for event in page])
    return max(1, min(len(page) * GROWTH, PAGE_BYTES_MAX * len(page) // max(size, 1)))
