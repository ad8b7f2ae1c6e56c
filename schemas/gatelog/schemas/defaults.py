"""The default of a field: from the JSON in a schema to the value that a decoder would return."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from gatelog.schemas.tree import Array, Enum, Fixed, Map, Primitive, Record, Type, Union, label

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RANGES: Final = {"int": 2**31, "long": 2**63}
_MICROS: Final = {"micros": 1, "millis": 1000}


def value_of(node: Type, default: Any) -> Any:  # noqa: ANN401 - a JSON value in, a value of any type out
    """Return a default as a decoder would return the same value from bytes.

    Raises:
        ValueError: it does not fit the type.
    """
    match node:
        case Union():
            return _first_that_fits(node, default)
        case Record() if isinstance(default, dict):
            return {field.name: _member(field, default) for field in node.fields}
        case Array() if isinstance(default, list):
            return [value_of(node.items, each) for each in default]
        case Map() if isinstance(default, dict):
            return {key: value_of(node.values, each) for key, each in default.items()}
        case Enum() if default in node.symbols:
            return default
        case Fixed() if isinstance(default, str) and len(default) == node.size:
            return _logical(node, _bytes(default))
        case Primitive():
            return _logical(node, _primitive(node, default))
    raise _misfit(node, default)


def _first_that_fits(union: Union, default: Any) -> Any:  # noqa: ANN401 - see value_of
    """Any branch will do since Avro 1.12; before, it had to be the first."""
    for branch in union.branches:
        try:
            return value_of(branch, default)
        except ValueError:
            continue
    raise _misfit(union, default)


def _member(field: Any, default: dict[str, Any]) -> Any:  # noqa: ANN401 - see value_of
    if field.name not in default and not field.has_default:
        raise ValueError(f"its field {field.name} is missing")
    return value_of(field.type, default.get(field.name, field.default))


def _primitive(node: Primitive, default: Any) -> Any:  # noqa: ANN401 - see value_of
    kind = node.kind
    if kind == "null" and default is None:
        return None
    if kind == "boolean" and isinstance(default, bool):
        return default
    if kind in _RANGES and type(default) is int and -_RANGES[kind] <= default < _RANGES[kind]:
        return default
    if kind in {"float", "double"} and isinstance(default, (int, float)) and not isinstance(default, bool):
        return float(default)
    if kind == "string" and isinstance(default, str):
        return default
    if kind == "bytes" and isinstance(default, str):
        return _bytes(default)
    raise _misfit(node, default)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} has characters above U+00FF, which stand for no byte") from None


def _logical(node: Primitive | Fixed, raw: Any) -> Any:  # noqa: ANN401 - see value_of
    logical = node.logical
    if logical is None or logical.name == "duration":
        return raw
    if logical.name == "decimal":
        unscaled = int.from_bytes(raw, signed=True)
        if abs(unscaled) >= 10**logical.precision:
            raise ValueError(f"{unscaled} has more than {logical.precision} digits")
        return Decimal(unscaled).scaleb(-logical.scale)
    if logical.name == "uuid":
        return UUID(raw) if isinstance(raw, str) else UUID(bytes=raw)
    if logical.name == "date":
        return date.fromordinal(EPOCH.toordinal() + raw)
    return _moment(logical.name, raw)


def _moment(logical: str, raw: int) -> datetime | time:
    kind, _, unit = logical.rpartition("-")
    try:
        moment = EPOCH + timedelta(microseconds=raw * _MICROS[unit])
    except OverflowError:
        raise ValueError(f"{raw} is beyond the year 9999") from None
    if kind == "timestamp":
        return moment
    if kind == "time" and moment.date() != EPOCH.date():
        raise ValueError(f"{raw} is no time of a day")
    return moment.time() if kind == "time" else moment.replace(tzinfo=None)


def _misfit(node: Type, default: Any) -> ValueError:  # noqa: ANN401 - a JSON value
    return ValueError(f"{default!r} is no {label(node)}")
