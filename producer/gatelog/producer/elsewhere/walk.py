"""How far several shards together hold the log. Pure: positions are given by whoever asks.

Positions are gapless over the store, so the shards need not know what the others lack: everything is there up to a
position when each position up to it is in one of them.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

WINDOW_MIN: Final = 256
WINDOW_MAX: Final = 65_536
WINDOWS_MAX: Final = 16  # then say first how far it came

Held: TypeAlias = Callable[[int, int], Awaitable[Sequence[Sequence[int]]]]  # after, limit → sorted, a list a shard


def reach(front: int, held: Iterable[Sequence[int]]) -> int:
    """Return the highest position up to which nothing is missing, given that this holds up to ``front``."""
    positions = set().union(*held)
    while front + 1 in positions:
        front += 1
    return front


async def walk(front: int, held: Held, window: int = WINDOW_MIN) -> int:
    """Return a position up to which nothing is missing, from ``front`` on: the highest, or one that is far ahead.

    Windows double while they are full, so that a gap at the front costs one short look.
    """
    for _ in range(WINDOWS_MAX):
        lists = await held(front, window)
        start, front = front, reach(front, lists)
        if front == start or all(len(positions) < window for positions in lists):
            break
        window = min(2 * window, WINDOW_MAX)
    return front
