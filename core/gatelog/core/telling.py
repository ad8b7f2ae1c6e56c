"""Errors in words. Whatever an exception says of itself, what is told of it stays short. Pure."""

import traceback
from typing import Final

from gatelog.core.errors import GatelogError

TEXT_CHARACTERS_MAX: Final = 2_000  # of one error
TRACE_CHARACTERS_MAX: Final = 20_000
CAUSES_MAX: Final = 8  # that are told of one error
KEPT_FIRST: Final = 2 / 3  # of a text that is cut: how much of what stays is its beginning


def cut(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return a text in at most so many characters: beginning and end stay, a note between them says what is gone.

    It can be written anywhere: a surrogate without its other half, which no encoding has, is told by its number.
    """
    if not text.isascii():
        text = text.encode(errors="backslashreplace").decode()
    if len(text) <= characters_max:
        return text
    kept = characters_max - len(_note(len(text)))
    if kept <= 0:
        return text[:characters_max]
    first = int(kept * KEPT_FIRST)
    return text[:first] + _note(len(text) - kept) + text[len(text) - kept + first :]


def _note(characters: int) -> str:
    return f" [... {characters:,} characters cut ...] "


def told(error: BaseException) -> str:
    """Return what happened and what caused it, in one text. What an error has said already is not said again."""
    return cut("; caused by ".join(causes(error)), TRACE_CHARACTERS_MAX)


def causes(error: BaseException) -> list[str]:
    """Return what an error says, and what those say that caused it; each is cut.

    Members of an exception group count as its causes. Errors of gatelog have all in their text, others are told with
    their class.
    """
    found: list[str] = []
    todo, seen = [error], set[int]()
    while todo and len(found) < CAUSES_MAX:
        each = todo.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        text = _said(each)
        if not any(text in before for before in found):
            found.append(text)
        todo = [*_behind(each), *todo]
    return found


def traced(error: BaseException) -> str:
    """Return the traceback of an error and of its causes, cut; what it says where none can be made of it."""
    try:
        return cut("".join(traceback.format_exception(error)).rstrip(), TRACE_CHARACTERS_MAX)
    except Exception:  # noqa: BLE001 - of a class of the user, or of what is in it
        return told(error)


def _said(error: BaseException) -> str:
    """An error that cannot say itself is named by its class."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - of a class of the user
        text = ""
    if isinstance(error, GatelogError) and text:
        return cut(text, TRACE_CHARACTERS_MAX)
    return cut(f"{kind}: {text}" if text else kind)


def _behind(error: BaseException) -> list[BaseException]:
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return [*members, *([] if cause is None else [cause])]
