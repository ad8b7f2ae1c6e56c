"""A model's default value as the JSON that stands in its Avro schema."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias
from uuid import UUID

from pydantic import BaseModel

from gatelog.schemas.avro_types import Duration, naming_of
from gatelog.schemas.defaults import EPOCH

Schema = Any
Lookup: TypeAlias = Callable[[str], Schema]  # a named type's definition

_EXACT: Final[dict[type, Sequence[str]]] = {
    type(None): ("null",),
    bool: ("boolean",),
    int: ("long", "int"),
    float: ("double", "float"),
    str: ("string",),
    list: ("array",),
    tuple: ("array",),
    set: ("array",),
    frozenset: ("array",),
    dict: ("map",),
    Decimal: ("decimal",),
    UUID: ("uuid",),
    date: ("date",),
    time: ("time-micros", "time-millis"),
    Duration: ("duration",),
}
_LOOSE: Final[dict[type, Sequence[str]]] = {int: ("double", "float"), str: ("enum",), bytes: ("bytes", "fixed")}
_MICROS_IN_MILLI: Final = 1000


def branch_of(value: Any, schema: Schema, lookup: Lookup) -> Schema:  # noqa: ANN401 - a value of any type
    """Return the branch of a union that a value belongs to; the schema itself if it is no union.

    Raises:
        ValueError: it fits none.
    """
    if not isinstance(schema, list):
        return schema
    for kinds in (_kinds(value), _LOOSE.get(type(value), ())):
        for branch in schema:
            meant = lookup(branch)
            if _name(value, meant) or (_kind(meant) in kinds and _has_size(value, meant)):
                return branch
    raise ValueError(f"{value!r} is of no branch of the union")


def json_of(value: Any, schema: Schema, lookup: Lookup) -> Any:  # noqa: ANN401 - a value of any type in, JSON out
    """Return a value as the JSON of a default; ``schema`` is that of a branch, not a union.

    Raises:
        ValueError: Avro's JSON cannot say it.
    """
    schema = lookup(schema)
    match value:
        case BaseModel():
            types = {field["name"]: field["type"] for field in schema["fields"]}
            keys = {info.alias or key: getattr(value, key) for key, info in type(value).model_fields.items()}
            return {name: _inner(each, types[name], lookup) for name, each in keys.items()}
        case Enum():
            return value.value
        case dict():
            return {key: _inner(each, schema["values"], lookup) for key, each in value.items()}
        case list() | tuple():
            return [_inner(each, schema["items"], lookup) for each in value]
        case set() | frozenset():  # in one order, whatever the hashes are
            return sorted((_inner(each, schema["items"], lookup) for each in value), key=repr)
        case _:
            return _scalar(value, schema)


def _inner(value: Any, schema: Schema, lookup: Lookup) -> Any:  # noqa: ANN401 - see json_of
    return json_of(value, branch_of(value, schema, lookup), lookup)


def _scalar(value: Any, schema: Schema) -> Any:  # noqa: ANN401 - see json_of
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, Decimal):
        return _unscaled(value, schema["scale"], schema.get("size")).decode("latin-1")
    if isinstance(value, UUID):
        return str(value) if schema["type"] == "string" else value.bytes.decode("latin-1")
    if isinstance(value, (datetime, date, time)):
        return _moment(value, schema["logicalType"])
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    return value


def _unscaled(value: Decimal, scale: int, size: int | None) -> bytes:
    unscaled = int(value.scaleb(scale))
    if unscaled != value.scaleb(scale):
        raise ValueError(f"{value} has more than {scale} decimal places")
    try:
        return unscaled.to_bytes(size or (unscaled.bit_length() + 8) // 8, signed=True)
    except OverflowError:
        raise ValueError(f"{value} does not fit into {size} bytes") from None


def _moment(value: datetime | date | time, logical: str) -> int:
    if isinstance(value, datetime):
        span = (value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH
    elif isinstance(value, time):
        span = datetime.combine(EPOCH, value.replace(tzinfo=UTC)) - EPOCH
    else:
        return value.toordinal() - EPOCH.toordinal()
    micros = (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds
    return micros // _MICROS_IN_MILLI if logical.endswith("millis") else micros


def _kinds(value: Any) -> Sequence[str]:  # noqa: ANN401 - see branch_of
    if isinstance(value, datetime):
        zone = "" if value.tzinfo else "local-"
        return (f"{zone}timestamp-micros", f"{zone}timestamp-millis")
    return _EXACT.get(type(value), ())


def _name(value: Any, schema: Schema) -> bool:  # noqa: ANN401 - see branch_of
    if not isinstance(value, (BaseModel, Enum)) or not isinstance(schema, dict):
        return False
    name = naming_of(type(value)).name or type(value).__name__
    return bool(schema.get("name", "").rpartition(".")[2] == name.rpartition(".")[2])


def _has_size(value: Any, schema: Schema) -> bool:  # noqa: ANN401 - see branch_of
    is_fixed = isinstance(schema, dict) and schema["type"] == "fixed"
    return not (is_fixed and isinstance(value, bytes)) or len(value) == schema["size"]


def _kind(schema: Schema) -> str:
    if not isinstance(schema, dict):
        return str(schema)
    return str(schema.get("logicalType", schema["type"]))
