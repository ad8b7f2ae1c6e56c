"""JSON text as Postgres takes it: jsonb holds no NUL character."""

import re
from typing import Final

# An odd number of backslashes before u0000: with an even number they escape each other, and "u0000" is plain text.
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def has_nul(text: str) -> bool:
    """Say whether a string in a JSON text holds a NUL character."""
    return "\\u0000" in text and _NUL.search(text) is not None


def without_nul(text: str) -> str:
    """Return a JSON text with U+FFFD for every NUL character."""
    return _NUL.sub("\\1\ufffd", text) if "\\u0000" in text else text
