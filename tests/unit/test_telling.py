"""Errors in words: nothing that an exception says of itself is too long, and its causes are told."""

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import gatelog.core
from gatelog.core.errors import PostgresUnavailableError
from gatelog.core.telling import TRACE_CHARACTERS_MAX, causes, cut, told, traced


@given(st.text(), st.integers(1, 200))
def test_a_text_is_cut_to_what_is_allowed(text: str, characters_max: int) -> None:
    found = cut(text, characters_max)
    assert len(found) <= characters_max
    assert found == text or len(text) > characters_max


def test_beginning_and_end_stay_and_the_rest_is_counted() -> None:
    found = cut("x" * 3_000_000 + "z" * 3_000_000, 100)
    assert (len(found), found[0], found[-1]) == (100, "x", "z")
    assert f"[... {6_000_000 - found.count('x') - found.count('z'):,} characters cut ...]" in found


def test_what_no_encoding_has_is_told_by_its_number() -> None:
    assert cut("half \ud83d of é") == "half \\ud83d of é"


def raised(error: Exception, cause: BaseException | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:  # noqa: BLE001 - the point
        return caught


def test_an_error_is_told_with_what_caused_it() -> None:
    error = raised(ValueError("no such customer"), raised(KeyError("ann"), ConnectionResetError()))
    assert told(error) == "ValueError: no such customer; caused by KeyError: 'ann'; caused by ConnectionResetError"
    assert "KeyError: 'ann'" in traced(error)


def test_members_of_a_group_are_its_causes() -> None:
    error = ExceptionGroup("some tasks", [ValueError("a"), raised(TypeError("b"), KeyError("c"))])
    assert causes(error)[1:] == ["ValueError: a", "TypeError: b", "KeyError: 'c'"]


def test_what_was_said_is_not_said_again() -> None:
    cause = OSError("refused")
    assert told(raised(PostgresUnavailableError(f"No answer (OSError: {cause})."), cause)) == (
        "No answer (OSError: refused)."
    )


def test_errors_that_say_much_nothing_or_each_other_end() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    first, second = ValueError("x" * 6_000_000), MuteError()
    first.__cause__, second.__cause__ = second, first
    assert causes(first)[1:] == ["MuteError"]
    error: Exception = ValueError("end")
    for number in range(5_000):
        error = raised(ValueError(f"{number} " * 500_000 if number < 2 else f"{number}"), error)
    assert len(told(error)) <= TRACE_CHARACTERS_MAX
    assert len(traced(first)) <= TRACE_CHARACTERS_MAX


def test_every_log_line_about_an_error_tells_its_causes() -> None:
    """``str(error)`` has neither its causes nor a bound."""
    sources = Path(gatelog.core.__path__[0]).parents[2].glob("*/gatelog/**/*.py")
    found = {source.name for source in sources if re.search(r"\b(error|reason|why)=str\(", source.read_text())}
    assert not found
