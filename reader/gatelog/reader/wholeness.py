"""Whether a page of a stream is whole: versions have no gaps, so that one is seen without asking anybody."""

from collections.abc import Sequence
from typing import Final, Protocol

from gatelog.reader.merging import VERSION
from gatelog.reader.stream_reads import StreamRead
from gatelog.schemas.envelope import Row

VERSION_MAX: Final = 2**63 - 1

Hole = tuple[int, int]  # the first and the last version that are missing


class Versions(Protocol):
    """Who knows how far streams go."""

    async def version(self, stream: str) -> int:
        """Return the version of a stream, 0 when it does not exist."""
        ...


async def hole_in(rows: Sequence[Row], wanted: StreamRead, versions: Versions, *, backward: bool) -> Hole | None:
    """Return the first hole in the rows of a read; None: there is none.

    How far the stream goes is asked only where the read was to go further than its rows do. It may have grown
    since they were read: who refuses the read for it reads them again first, see ``hole_up_to``.
    """
    hole = first_hole(rows, wanted, backward=backward)
    if hole is None or hole[1] < wanted.highest:
        return hole
    return hole_up_to(await versions.version(wanted.stream), rows, wanted, backward=backward)


def hole_up_to(end: int, rows: Sequence[Row], wanted: StreamRead, *, backward: bool) -> Hole | None:
    """Return the first hole in rows that were read of a stream when it went as far as ``end``, or further."""
    hole = first_hole(rows, wanted, backward=backward)
    if hole is None or hole[1] < wanted.highest:
        return hole
    return (hole[0], min(hole[1], end)) if hole[0] <= end else None


def first_hole(rows: Sequence[Row], wanted: StreamRead, *, backward: bool) -> Hole | None:
    """Return the first hole in what a read was to cover; up to its last row, if it had no end."""
    found = [row[VERSION] for row in (reversed(rows) if backward else rows)]
    is_full = len(found) == wanted.limit
    low = found[0] if is_full and backward else wanted.lowest
    ends = found and ((is_full and not backward) or wanted.highest == VERSION_MAX)
    high = found[-1] if ends else wanted.highest
    if high - low + 1 == len(found) or (not found and high == VERSION_MAX):  # they rise
        return None
    first = low
    for version in found:
        if version > first:
            return first, version - 1
        first = version + 1
    return first, high
