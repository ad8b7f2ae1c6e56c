"""A hole in a page of a stream is seen by its versions, wherever it is, and nothing else is taken for one."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gatelog.reader.stream_reads import StreamRead
from gatelog.reader.wholeness import VERSION_MAX, hole_in


class Ends:
    """Says how far the stream goes."""

    def __init__(self, end: int) -> None:
        self._end = end

    async def version(self, stream: str) -> int:
        return self._end


@given(
    end=st.integers(0, 12),
    lost=st.sets(st.integers(1, 11)),
    lowest=st.integers(1, 14),
    highest=st.one_of(st.just(VERSION_MAX), st.integers(1, 14)),
    limit=st.integers(1, 8),
    backward=st.booleans(),
)
def test_the_first_version_that_a_page_should_hold_and_does_not(
    end: int, lost: set[int], lowest: int, highest: int, limit: int, backward: bool
) -> None:
    highest = max(lowest, highest)
    held = [v for v in range(lowest, min(highest, end) + 1) if v not in lost or v == end]
    rows = [("Note-1", v) for v in (held[::-1] if backward else held)][:limit]
    versions = sorted(v for _, v in rows)
    low = versions[0] if backward and len(rows) == limit else lowest
    high = versions[-1] if not backward and len(rows) == limit else min(highest, end)
    missing = [v for v in range(low, high + 1) if v not in versions]
    wanted = StreamRead("Note-1", lowest, highest, limit)
    found = asyncio.run(hole_in(rows, wanted, Ends(end), backward=backward))
    if not missing:
        assert found is None
    else:
        first = missing[0]
        assert found == (first, next(v for v in range(first, high + 2) if v not in missing) - 1)
