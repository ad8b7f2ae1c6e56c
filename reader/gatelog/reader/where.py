"""Conditions on payloads: ``where={"customer": "ann"}`` and ``where=[field("total") >= Decimal("10")]``.

A condition looks at the payload's JSON form, the column ``data`` of ``event_log``. Numbers are compared as numbers,
also where JSON holds them as text, as it does decimals. Times, dates and ids are text there, and are compared so: ISO
8601 in UTC sorts as time does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import orjson

from gatelog.core.errors import InvalidInputError
from gatelog.schemas.json_text import has_nul

Operator: TypeAlias = Literal["=", "<", "<=", ">", ">="]
Kind: TypeAlias = Literal["number", "text", "json"]
Path: TypeAlias = tuple[str, ...]

CONDITIONS_MAX: Final = 50
PATH_DEPTH_MAX: Final = 20
DIGITS_MAX: Final = 1_000  # of a number; payloads have fewer


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a payload's field with a value. Made by ``field``; several must all hold."""

    path: Path
    operator: Operator
    kind: Kind
    value: Decimal | str  # of kind "json": JSON text that the field must contain, as jsonb's @> means it

    def __bool__(self) -> bool:
        """Refuse ``1 < field("x") < 3`` and ``a and b``, which Python would silently cut to one condition."""
        raise TypeError("Write conditions as a list, where=[field('x') > 1, field('x') < 3]: all of them must hold.")


Where: TypeAlias = Mapping[str, Any] | Condition | Iterable[Mapping[str, Any] | Condition]


class Field:
    """A field of payloads, to be compared with a value; see ``field``."""

    __slots__ = ("_path",)
    __hash__ = None  # type: ignore[assignment] # it has no equality: == makes a condition

    def __init__(self, path: Path) -> None:
        """Use ``field``."""
        self._path = path

    def __eq__(self, value: object) -> Condition:  # type: ignore[override] # the condition is the point
        return condition(self._path, "=", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override] # see above
        raise InvalidInputError(
            f"{'.'.join(self._path)}: != is not a condition that an index answers; filter in Python."
        )

    def __lt__(self, value: object) -> Condition:
        return condition(self._path, "<", value)

    def __le__(self, value: object) -> Condition:
        return condition(self._path, "<=", value)

    def __gt__(self, value: object) -> Condition:
        return condition(self._path, ">", value)

    def __ge__(self, value: object) -> Condition:
        return condition(self._path, ">=", value)


def field(*path: str) -> Field:
    """Return a field of payloads: ``field("total")``, or ``field("address", "city")`` for one inside another.

    Compare it with ``==``, ``<``, ``<=``, ``>``, ``>=`` to a number, a text, a UUID, a date, a time, or a time with
    zone. Equality takes bool, None, lists and dicts too: a list must contain what is given, a dict have its fields.

    Raises:
        InvalidInputError: the path is empty, too deep, or holds what is no text.
    """
    return Field(_checked(path))


def conditions(where: Where | None) -> tuple[Condition, ...]:
    """Return all conditions of an argument ``where``, in an order that does not depend on how it was written.

    Raises:
        InvalidInputError: a value cannot be compared, or there are over ``CONDITIONS_MAX``.
    """
    if where is None:
        return ()
    parts = [where] if isinstance(where, (Mapping, Condition)) else list(where)
    found: list[Condition] = []
    for part in parts:
        if isinstance(part, Condition):
            found.append(part)
        elif isinstance(part, Mapping):
            found += _leaves((), part)
        else:
            raise InvalidInputError(f"where: {part!r} is neither a mapping nor a comparison of a field().")
    if len(found) > CONDITIONS_MAX:
        raise InvalidInputError(f"where has {len(found)} conditions; {CONDITIONS_MAX} are allowed.")
    return tuple(sorted(set(found), key=lambda c: (c.path, c.operator, c.kind, str(c.value))))


def _leaves(path: Path, part: Mapping[str, Any]) -> Iterable[Condition]:
    for name, value in part.items():
        inner = _checked((*path, name))
        if isinstance(value, Mapping) and value:
            yield from _leaves(inner, value)
        else:
            yield condition(inner, "=", value)


def condition(path: Path, operator: Operator, value: object) -> Condition:
    """Return a comparison with a value of any type that can be compared.

    Raises:
        InvalidInputError: it cannot.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return Condition(path, operator, "number", _number(path, value))
    try:
        if (text := _text(value)) is not None:
            return Condition(path, operator, "text", _sought(path, text))
        if operator != "=":
            raise InvalidInputError(f"{'.'.join(path)}: a {type(value).__name__} has no order; only == compares it.")
        json = orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME).decode()
    except (TypeError, OverflowError) as error:
        raise InvalidInputError(f"{'.'.join(path)}: {value!r} cannot be compared with a payload: {error}") from error
    return Condition(path, "=", "json", _sought(path, json, has_nul=has_nul(json)))


def _number(path: Path, value: float | Decimal) -> Decimal:
    number = Decimal(value) if isinstance(value, int) else Decimal(str(value))
    if not number.is_finite():
        raise InvalidInputError(f"{'.'.join(path)}: {value} is not a number that JSON can hold.")
    if abs(number.adjusted()) > DIGITS_MAX or len(number.as_tuple().digits) > DIGITS_MAX:
        raise InvalidInputError(f"{'.'.join(path)}: a number of over {DIGITS_MAX:,} digits cannot be compared.")
    return number


def _sought(path: Path, text: str, *, has_nul: bool = False) -> str:
    if has_nul or not is_sendable(text):
        raise InvalidInputError(f"{'.'.join(path)}: a NUL or half a surrogate pair cannot be looked for.")
    return text


def _text(value: object) -> str | None:
    """The JSON form of what is text there, as the indexer writes it."""
    if isinstance(value, str):
        return value
    return _plain(value) if isinstance(value, (UUID, date, time)) else None


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC)
    if isinstance(value, (date, time)):
        return str(orjson.loads(orjson.dumps(value)))
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def is_sendable(text: str) -> bool:
    """Say whether Postgres takes a text: no NUL, no half of a surrogate pair."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _checked(path: Path) -> Path:
    if not path or not all(isinstance(part, str) and part and is_sendable(part) for part in path):
        raise InvalidInputError(f"A field's path is one or more names, not {path!r}.")
    if len(path) > PATH_DEPTH_MAX:
        raise InvalidInputError(f"A field's path has {len(path)} names; {PATH_DEPTH_MAX} are allowed.")
    return path
