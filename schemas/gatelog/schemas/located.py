"""JSON whose objects know the line on which they begin, so that a finding can point to it."""

import json
import json.scanner
from dataclasses import dataclass
from json.decoder import JSONObject  # type: ignore[attr-defined] # in every CPython since 2.6, missing in typeshed
from pathlib import Path
from typing import Any, Final

from gatelog.core.errors import SchemaError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """A line (from 1) of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Located(dict[str, Any]):
    """A JSON object, and where it was written; None: nobody knows."""

    __slots__ = ("place",)

    def __init__(self, members: dict[str, Any], place: Place | None) -> None:
        super().__init__(members)
        self.place = place


class _Decoder(json.JSONDecoder):
    """The library's decoder in its Python form, which tells where an object begins."""

    def __init__(self, source: str) -> None:
        super().__init__(object_pairs_hook=_without_doubles)
        self._source = source
        self.parse_object = self._located
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined] # as above

    def _located(self, text_and_start: tuple[str, int], *rest: Any) -> tuple[Located, int]:  # noqa: ANN401 - passed on
        text, start = text_and_start
        members, end = JSONObject(text_and_start, *rest)
        return Located(members, Place(self._source, text.count("\n", 0, start) + 1)), end


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice in one object")
    return members


def loads(text: str, source: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value of ``text``, its objects as ``Located``.

    Raises:
        SchemaError: it is not JSON, or is nested too deeply; the message begins with ``source``.
    """
    try:
        return _Decoder(source).decode(text)
    except ValueError as error:
        raise SchemaError(f"{source} is not JSON: {error}") from error
    except RecursionError:
        raise SchemaError(f"{source} is nested too deeply to be a schema.") from None


def read(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value of a file.

    Raises:
        SchemaError: it cannot be read, is larger than 4 MiB, or is not JSON.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise SchemaError(f"{path} is over {FILE_BYTES_MAX:,} bytes: not a schema.")
        return loads(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path} cannot be read: {error}") from error
