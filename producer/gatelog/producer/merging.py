"""Pages of rows from several databases, as one sequence in the order of their positions."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

import asyncpg

Page: TypeAlias = Callable[[int, int], Awaitable[Sequence[asyncpg.Record]]]  # after, limit → rows by position


async def by_position(sources: Sequence[Page], rows_max: int) -> AsyncIterator[list[asyncpg.Record]]:
    """Yield the rows of all sources by position, at most ``rows_max`` at a time, or one of each source."""
    limit = max(1, rows_max // len(sources))
    held: list[list[asyncpg.Record]] = [[] for _ in sources]
    after = [0] * len(sources)
    unread = set(range(len(sources)))
    while True:
        for number in sorted(unread):
            if not held[number]:
                held[number] = list(await sources[number](after[number], limit))
                if held[number]:
                    after[number] = held[number][-1]["position"]
                else:
                    unread.discard(number)
        if not unread:
            return
        upto = min(held[number][-1]["position"] for number in unread)  # past it, a source may have more
        yield sorted(
            (row for rows in held for row in rows if row["position"] <= upto), key=lambda row: row["position"]
        )
        held = [[row for row in rows if row["position"] > upto] for rows in held]
