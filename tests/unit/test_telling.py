"""Errors in words: nothing that an exception says of itself is too long, and its causes are told."""

from hypothesis import given
from hypothesis import strategies as st

from gatelog.core.telling import cut


@given(st.text(), st.integers(1, 200))
def test_a_text_is_cut_to_what_is_allowed(text: str, characters_max: int) -> None:
    found = cut(text, characters_max)
    assert len(found) <= characters_max
    assert found == text or len(text) > characters_max


def test_beginning_and_end_stay_and_the_rest_is_counted() -> None:
    found = cut("x" * 3_000_000 + "z" * 3_000_000, 100)
    assert (len(found), found[0], found[-1]) == (100, "x", "z")
    assert f"[... {6_000_000 - found.count('x') - found.count('z'):,} characters cut ...]" in found
