"""A pydantic model's Avro schema. What Avro cannot say is refused when the schema is made, with the field's name.

Types: bool, int (long), float (double), str, bytes, UUID, AwareDatetime (timestamp-micros), NaiveDatetime
(local-timestamp-micros), date, time (time-micros), Decimal with ``max_digits`` and ``decimal_places``, string
enums and literals, list, dict with str keys, nested models, and unions of these with None.
"""

import types
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, NaiveDatetime
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from gatelog.core.errors import SchemaError

Schema = Any  # what Avro's JSON is: a name, a union (list) or an object

_PRIMITIVES: Final[dict[Any, Schema]] = {
    type(None): "null",
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
    bytes: "bytes",
    UUID: {"type": "string", "logicalType": "uuid"},
    AwareDatetime: {"type": "long", "logicalType": "timestamp-micros"},
    NaiveDatetime: {"type": "long", "logicalType": "local-timestamp-micros"},
    date: {"type": "int", "logicalType": "date"},
    time: {"type": "long", "logicalType": "time-micros"},
}


def schema_of(model: type[BaseModel], name: str | None = None) -> dict[str, Any]:
    """Return the Avro record schema of ``model``, named ``name`` or as the class.

    Raises:
        SchemaError: a field's type has no Avro counterpart; the message names it.
    """
    return _Mapping().record(model, name or model.__name__)


class _Mapping:
    """One model's walk; a named type is written out once and referred to by name afterwards."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def record(self, model: type[BaseModel], name: str) -> dict[str, Any]:
        self._named[name] = model
        fields = [self._field(f"{name}.{key}", key, info) for key, info in model.model_fields.items()]
        doc = {"doc": model.__doc__.strip()} if "__doc__" in vars(model) and model.__doc__ else {}
        return {"type": "record", "name": name, **doc, "fields": fields}

    def _field(self, path: str, key: str, info: FieldInfo) -> dict[str, Any]:
        schema = self._type(path, info.annotation, list(info.metadata))
        made: dict[str, Any] = {"name": key, "type": schema}
        if info.description:
            made["doc"] = info.description
        if not info.is_required():
            default = _json_default(path, info)
            made["type"] = _default_branch_first(schema, default)
            made["default"] = default
        return made

    def _type(self, path: str, annotation: Any, metadata: list[Any]) -> Schema:  # noqa: ANN401 - any annotation
        if annotation is datetime:
            raise SchemaError(f"{path}: datetime may lack a time zone; say AwareDatetime or NaiveDatetime.")
        if annotation is Decimal:
            return _decimal(path, metadata)
        if annotation in _PRIMITIVES:
            return _PRIMITIVES[annotation]
        if get_origin(annotation) is not None:
            return self._generic(path, get_origin(annotation), get_args(annotation), metadata)
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return self._enum(path, annotation.__name__, [member.value for member in annotation])
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self._nested(path, annotation)
        raise _no_counterpart(path, annotation)

    def _generic(self, path: str, origin: Any, args: tuple[Any, ...], metadata: list[Any]) -> Schema:  # noqa: ANN401 - any annotation
        if origin is Annotated:
            return self._type(path, args[0], [*metadata, *_flat(args[1:])])
        if origin in {Union, types.UnionType}:
            return self._union(path, [self._type(path, arg, metadata) for arg in args])
        if origin is Literal:
            return self._enum(path, path.replace(".", "_"), list(args))
        if origin in {list, set, frozenset} or (origin is tuple and args[1:] == (...,)):
            return {"type": "array", "items": self._type(path, args[0], [])}
        if origin is dict and args[0] is str:
            return {"type": "map", "values": self._type(path, args[1], [])}
        raise _no_counterpart(path, origin)

    def _nested(self, path: str, model: type[BaseModel]) -> Schema:
        name = model.__name__
        if name not in self._named:
            return self.record(model, name)
        if self._named[name] is not model:
            raise SchemaError(f"{path}: two types are named {name} in one schema; rename one of them.")
        return name

    def _enum(self, path: str, name: str, symbols: list[Any]) -> Schema:
        if not all(isinstance(symbol, str) and symbol.isidentifier() for symbol in symbols):
            raise SchemaError(f"{path}: Avro enums hold identifiers, not {symbols!r}. Use str with a validator.")
        if self._named.setdefault(name, symbols) != symbols:
            raise SchemaError(f"{path}: two types are named {name} in one schema; rename one of them.")
        return {"type": "enum", "name": name, "symbols": symbols}

    def _union(self, path: str, branches: list[Schema]) -> Schema:
        kinds = [_kind(branch) for branch in branches]
        if len(set(kinds)) < len(kinds):
            raise SchemaError(f"{path}: an Avro union holds each kind of type once, not {kinds}.")
        return branches


def _no_counterpart(path: str, annotation: object) -> SchemaError:
    return SchemaError(f"{path}: {annotation!r} has no Avro counterpart; see `gatelog.schemas.avro`.")


def _kind(schema: Schema) -> str:
    if isinstance(schema, str):
        return schema
    named = schema["type"] in {"record", "enum", "fixed"}
    return str(schema["name"] if named else schema["type"])


def _flat(metadata: tuple[Any, ...]) -> list[Any]:
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _decimal(path: str, metadata: list[Any]) -> Schema:
    digits = next((d for m in metadata if (d := getattr(m, "max_digits", None)) is not None), None)
    places = next((d for m in metadata if (d := getattr(m, "decimal_places", None)) is not None), None)
    if digits is None or places is None:
        raise SchemaError(f"{path}: a Decimal needs Field(max_digits=…, decimal_places=…) to be exact in Avro.")
    return {"type": "bytes", "logicalType": "decimal", "precision": digits, "scale": places}


def _json_default(path: str, info: FieldInfo) -> Any:  # noqa: ANN401 - a JSON value
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, (bytes, Decimal, UUID, datetime, date, time)):
        raise SchemaError(f"{path}: a default of type {type(value).__name__} is not supported; use None.")
    return to_jsonable_python(value)


def _default_branch_first(schema: Schema, default: Any) -> Schema:  # noqa: ANN401 - a JSON value
    """A union's default must fit its first branch (Avro 1.11 specification, "Complex Types")."""
    if not isinstance(schema, list):
        return schema
    fits = {
        type(None): {"null"},
        bool: {"boolean"},
        int: {"long"},
        float: {"double"},
        str: {"string"},
        list: {"array"},
    }.get(type(default), set())
    return sorted(schema, key=lambda branch: _kind(branch) not in fits)
