"""Rows of several databases, merged: the judge is the store that has them all in one place."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gatelog.core.shards import shard_of
from gatelog.producer.elsewhere.walk import reach, walk
from gatelog.reader.merging import by_position, by_version

Row = tuple[str, int, int | None]


@given(
    length=st.integers(0, 30),
    data=st.data(),
    limit=st.integers(1, 40),
    backward=st.booleans(),
)
def test_a_stream_has_each_version_once_whatever_moves_between_the_two_reads(
    length: int, data: st.DataObject, limit: int, backward: bool
) -> None:
    """The outbox is read first: what has left it by then is in the index by then; the index may go on meanwhile."""
    left = data.draw(st.integers(0, length), "versions that have left the outbox")
    indexed_upto = data.draw(st.integers(left, length + 5), "versions that the index holds when it is read")
    lowest, highest = data.draw(st.integers(1, 32)), data.draw(st.integers(1, 40))
    step = -1 if backward else 1

    def side(versions: range, position: int | None) -> list[Row]:
        rows: list[Row] = [("S-1", v, position) for v in versions if lowest <= v <= highest]
        return rows[::step][:limit]

    pending, indexed = side(range(left + 1, length + 1), None), side(range(1, indexed_upto + 1), 7)
    found = by_version(indexed, pending, limit, backward=backward)
    whole = side(range(1, max(length, indexed_upto) + 1), None)
    assert [row[1] for row in found] == [row[1] for row in whole]
    assert all(row[2] == 7 for row in found if row[1] <= indexed_upto), "who is indexed has its position"


@given(
    owners=st.lists(st.integers(0, 3), max_size=60),
    after=st.integers(0, 60),
    limit=st.integers(1, 70),
    frontier=st.integers(0, 70),
    backward=st.booleans(),
)
def test_the_log_is_merged_on_position_up_to_the_frontier(
    owners: list[int], after: int, limit: int, frontier: int, backward: bool
) -> None:
    log: list[Row] = [("S-1", 1, position) for position in range(1, len(owners) + 1)]
    upto = min(after - 1, frontier) if backward else len(log)
    asked = [row for row in log if (0 if backward else after) < (row[2] or 0) <= upto][:: -1 if backward else 1]
    pages = [[row for row in asked if owners[(row[2] or 0) - 1] == shard][:limit] for shard in range(4)]
    wanted = [row for row in asked if (row[2] or 0) <= frontier][:limit]
    assert by_position(pages, frontier, limit, backward=backward) == wanted


@given(owners=st.lists(st.integers(0, 3), max_size=60), window=st.integers(1, 20), data=st.data())
def test_the_frontier_is_the_last_position_before_the_first_that_no_shard_holds(
    owners: list[int], window: int, data: st.DataObject
) -> None:
    """Shards fill in any order. The walk starts anywhere that is right, and looks through small windows."""
    missing = data.draw(st.sets(st.integers(1, max(1, len(owners)))), "positions that are not there yet")
    held = [
        [position for position, owner in enumerate(owners, 1) if owner == shard and position not in missing]
        for shard in range(4)
    ]
    truth = 0
    while truth < len(owners) and truth + 1 not in missing:
        truth += 1
    start = data.draw(st.integers(0, truth), "a frontier that was right before")

    async def ask(after: int, limit: int) -> Sequence[Sequence[int]]:
        return [[position for position in each if position > after][:limit] for each in held]

    assert asyncio.run(walk(start, ask, window)) == truth
    assert reach(start, held) == truth


def test_a_walk_says_how_far_it_came_before_it_goes_on_for_ever() -> None:
    async def ask(after: int, limit: int) -> Sequence[Sequence[int]]:
        return [range(after + 1, after + limit + 1)]

    assert 100_000 < asyncio.run(walk(0, ask)) < 1_000_000


def test_the_shard_of_a_stream_never_changes() -> None:
    """Indexes were built by this: another function would look for their streams in the wrong place."""
    streams = ["Order-1", "Order-2", "Bücher-Ä", "a.b-c-d", "Order-00000000-0000-7000-8000-000000000000"]
    assert [shard_of(stream.encode(), 1) for stream in streams] == [0] * 5
    assert [shard_of(stream.encode(), 2**32) for stream in streams] == [
        789464691,
        3053918153,
        2371624684,
        482682224,
        1165838324,
    ]


@given(shards=st.integers(2, 16))
def test_streams_are_spread_evenly(shards: int) -> None:
    counts = [0] * shards
    for number in range(4_000):
        counts[shard_of(f"Order-{number}".encode(), shards)] += 1
    assert max(counts) < 1.5 * 4_000 / shards
