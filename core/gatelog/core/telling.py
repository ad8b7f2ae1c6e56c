"""Errors in words. Whatever an exception says of itself, what is told of it stays short. Pure."""

from typing import Final

TEXT_CHARACTERS_MAX: Final = 2_000  # of one error
TRACE_CHARACTERS_MAX: Final = 20_000
KEPT_FIRST: Final = 2 / 3  # of a text that is cut: how much of what stays is its beginning


def cut(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return a text in at most so many characters: beginning and end stay, a note between them says what is gone."""
    if len(text) <= characters_max:
        return text
    kept = characters_max - len(_note(len(text)))
    if kept <= 0:
        return text[:characters_max]
    first = int(kept * KEPT_FIRST)
    return text[:first] + _note(len(text) - kept) + text[len(text) - kept + first :]


def _note(characters: int) -> str:
    return f" [... {characters:,} characters cut ...] "
