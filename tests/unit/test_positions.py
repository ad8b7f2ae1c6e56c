"""Sets of positions: held against a plain set."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gatelog.core.positions import Positions


@given(st.integers(1, 100_000), st.integers(0, 70_000), st.data())
def test_it_is_a_set(first: int, length: int, data: st.DataObject) -> None:
    last = first + length - 1
    runs = data.draw(st.lists(st.tuples(st.integers(0, length), st.integers(0, 40_000)), max_size=5))
    wanted = {p for start, size in runs for p in range(first + start, min(first + start + size, last + 1))}
    made = Positions(first, last)
    for position in wanted:
        assert made.add(position)
        assert not made.add(position)
    assert not made.add(first - 1)
    assert not made.add(last + 1)
    assert made.count == len(wanted)
    gaps = list(made.gaps())
    assert {p for start, end in gaps for p in range(start, end + 1)} == set(range(first, last + 1)) - wanted
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(gaps)), "each gap is one range"
    assert all(start in made or start not in wanted for start, _ in gaps)
