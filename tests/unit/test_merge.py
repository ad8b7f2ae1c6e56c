"""The merge by position: whatever comes in whatever order, it gives what sorting would, and never too early."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatelog.core.errors import LogMismatchError
from gatelog.core.partitioning import murmur2
from gatelog.reader.subscriptions.merge import Merge, Place

PLACES: list[Place] = [("a", 0), ("a", 1), ("b", 0), ("c", 0)]


def released_by(merge: Merge) -> list[int]:
    return [position for position, _ in merge.release()]


def watch(merge: Merge, handled: int = 0) -> None:
    for place in PLACES:
        merge.watch(place, handled)


@st.composite
def logs(draw: st.DrawFn, *, gapless: bool) -> dict[Place, list[int]]:
    """Positions over partitions, each in order."""
    positions = draw(st.sets(st.integers(1, 60), max_size=40))
    last = max(positions, default=0)
    log: dict[Place, list[int]] = {place: [] for place in PLACES}
    for position in range(1, last + 1) if gapless else sorted(positions):
        log[draw(st.sampled_from(PLACES))].append(position)
    return log


@settings(deadline=None)
@given(st.data(), st.booleans(), st.integers(0, 20))
def test_the_order_is_that_of_sorting_and_nothing_is_late(data: st.DataObject, gapless: bool, after: int) -> None:
    """At every moment: what was released is a prefix of the sorted log, and as long as can be known."""
    log = data.draw(logs(gapless=gapless))
    expected = sorted(position for held in log.values() for position in held if position > after)
    end = max([after, *expected])
    merge = Merge(after, gapless=gapless)
    watch(merge, after)
    given_upto = dict.fromkeys(PLACES, after)
    left = {place: list(held) for place, held in log.items()}
    released: list[int] = []
    here: set[int] = set()
    while any(left.values()) or min(given_upto.values()) < end:
        place = data.draw(st.sampled_from(PLACES))
        if left[place] and bool(data.draw(st.integers(0, 1))):
            position = left[place].pop(0)
            merge.add(place, (position, None))
            given_upto[place] = max(given_upto[place], position)
            here.add(position)
        else:  # somebody finds out how far it is quiet
            upto = left[place][0] - 1 if left[place] else end
            merge.quiet(place, upto)
            given_upto[place] = max(given_upto[place], upto)
        released += released_by(merge)
        # The model: what no partition can undercut, and after that, without gaps, what follows.
        known = min(given_upto.values())
        if gapless:
            while known + 1 in here:
                known += 1
        assert released == [position for position in expected if position <= known]
        assert len(released) + merge.held == len([p for p in here if p > after])
    assert released == expected
    assert merge.missing == 0


@settings(deadline=None)
@given(st.data(), st.integers(1, 10))
def test_positions_that_no_partition_holds_are_counted(data: st.DataObject, hole: int) -> None:
    merge = Merge(0, gapless=True)
    watch(merge)
    others = [position for position in range(1, 12) if position != hole]
    for position in others:
        merge.add(data.draw(st.sampled_from(PLACES)), (position, None))
    released = released_by(merge)
    for place in PLACES:
        merge.quiet(place, 11)
    assert released + released_by(merge) == others
    assert (merge.missing, merge.upto) == (1, 11)


def test_who_is_waited_for() -> None:
    merge = Merge(0, gapless=False)
    watch(merge)
    assert merge.awaited() == []
    merge.add(("a", 0), (7, None))
    assert released_by(merge) == []
    assert merge.awaited() == PLACES[1:]
    for place in PLACES[1:]:
        merge.quiet(place, 7)
    assert merge.awaited() == []
    assert released_by(merge) == [7]


def test_a_partition_that_is_out_of_order_is_named() -> None:
    merge = Merge(3, gapless=True)
    watch(merge, 3)
    merge.add(("a", 0), (2, None))  # again: it was handled
    merge.add(("a", 0), (9, None))
    with pytest.raises(LogMismatchError, match="position 8 comes after 9"):
        merge.add(("a", 0), (8, None))


@pytest.mark.parametrize("gapless", [True, False])
def test_what_a_partition_gives_again_is_passed_over(gapless: bool) -> None:
    """Its topic was deleted and filled again, and the client reads on in the new one."""
    merge = Merge(0, gapless=gapless)
    merge.watch(("a", 0))
    for position in (1, 2):
        merge.add(("a", 0), (position, None))
    assert released_by(merge) == [1, 2]
    for position in (1, 2, 3):
        merge.add(("a", 0), (position, None))
    assert released_by(merge) == [3]
    assert merge.late == 0


def test_a_new_partition_is_waited_for_only_after_what_was_released() -> None:
    merge = Merge(0, gapless=True)
    merge.watch(("a", 0))
    merge.add(("a", 0), (1, None))
    assert released_by(merge) == [1]
    merge.add(("a", 0), (3, None))
    merge.watch(("new", 0))
    assert released_by(merge) == []
    merge.add(("new", 0), (2, None))
    assert released_by(merge) == [2, 3]


@pytest.mark.parametrize(
    ("key", "expected"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_the_hash_is_that_of_the_java_client(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def test_what_comes_too_late_is_given_all_the_same_and_counted() -> None:
    merge = Merge(5, gapless=False)
    merge.watch(("a", 0), handled=5)
    merge.add(("a", 0), (9, None))
    assert released_by(merge) == [9]
    merge.watch(("new", 0), handled=0)
    merge.add(("new", 0), (7, None))
    merge.add(("a", 0), (10, None))
    assert released_by(merge) == [7]
    assert merge.late == 1
    merge.quiet(("new", 0), 10)
    assert released_by(merge) == [10]
