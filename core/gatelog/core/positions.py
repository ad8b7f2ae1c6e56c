"""A set of positions, one bit each: what was seen of a log of any length, in memory that is known beforehand."""

from collections.abc import Iterator
from typing import Final

_BLOCK_BYTES: Final = 4_096
_FULL: Final = b"\xff" * _BLOCK_BYTES


class Positions:
    """Positions from ``first`` to ``last``; others are not taken."""

    def __init__(self, first: int, last: int) -> None:
        """Take an eighth of a byte for each."""
        self._first = first
        self._last = last
        self._bits = bytearray(max(0, last - first + 8) // 8)
        self.count = 0

    def __contains__(self, position: int) -> bool:
        place = position - self._first
        return self._first <= position <= self._last and bool(self._bits[place >> 3] >> (place & 7) & 1)

    def add(self, position: int) -> bool:
        """Say whether it is new, and within the bounds."""
        if not self._first <= position <= self._last or position in self:
            return False
        place = position - self._first
        self._bits[place >> 3] |= 1 << (place & 7)
        self.count += 1
        return True

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges of positions that are not in the set, both ends included, in order."""
        start: int | None = None
        for block in range(0, len(self._bits), _BLOCK_BYTES):
            first = self._first + block * 8
            if self._bits[block : block + _BLOCK_BYTES] == _FULL:
                if start is not None:
                    yield start, first - 1
                    start = None
                continue
            for position in range(first, min(first + _BLOCK_BYTES * 8, self._last + 1)):
                if position not in self:
                    start = position if start is None else start
                elif start is not None:
                    yield start, position - 1
                    start = None
        if start is not None:
            yield start, self._last
