"""A pydantic model's Avro schema. What Avro cannot say is refused when the schema is made, with the field's name.

Types: bool, int (long), float (double), str, bytes, UUID, AwareDatetime (timestamp-micros), NaiveDatetime
(local-timestamp-micros), date, time (time-micros), Decimal with ``max_digits`` and ``decimal_places``, string
enums and literals, list, dict with str keys, nested and recursive models, and unions of these with None; and what
``gatelog.schemas.avro_types`` adds. A field with an alias has that name in Avro.
"""

import inspect
import types
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, NaiveDatetime
from pydantic.fields import FieldInfo

from gatelog.core.errors import SchemaError
from gatelog.schemas.avro_defaults import branch_of, json_of
from gatelog.schemas.avro_types import LOGICAL_IN_FIXED, Aliases, As, Duration, Fixed, Naming, naming_of
from gatelog.schemas.located import Located, Place

Schema = Any  # what Avro's JSON is: a name, a union (list) or an object
Locate: TypeAlias = Callable[[type, str | None], Place | None]

PRIMITIVES: Final[dict[Any, Schema]] = {
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


def schema_of(model: type[BaseModel], name: str | None = None, locate: Locate | None = None) -> dict[str, Any]:
    """Return the Avro record schema of ``model``, named ``name`` or as the class.

    With ``locate``, records and fields are ``Located``.

    Raises:
        SchemaError: a field's type has no Avro counterpart; the message names it.
    """
    return _Mapping(locate).record(model, name or naming_of(model).name or model.__name__)


def classes_of(model: type[BaseModel], name: str | None = None) -> dict[str, type]:
    """Return the models, enums and durations within ``model``, itself included, by their full names in Avro.

    Raises:
        SchemaError: see ``schema_of``.
    """
    mapping = _Mapping(None)
    mapping.record(model, name or naming_of(model).name or model.__name__)
    durations = {full: Duration for full, made in mapping.made.items() if made.get("logicalType") == "duration"}
    return {**{full: owner for full, owner in mapping.named.items() if isinstance(owner, type)}, **durations}


def avro_name(key: str, info: FieldInfo) -> str:
    """Return what a field is called in Avro."""
    return info.alias or key


class _Mapping:
    """One model's walk; a named type is written out once and referred to by name afterwards."""

    def __init__(self, locate: Locate | None) -> None:
        self._locate = locate
        self.named: dict[str, Any] = {}  # full name: the class, symbols or size that has it
        self.made: dict[str, dict[str, Any]] = {}
        self._namespace = ""

    def record(self, model: type[BaseModel], name: str, path: str = "") -> dict[str, Any]:
        naming = naming_of(model)
        full = self._claim(path or name, name, model)
        made: dict[str, Any] = {"type": "record", "name": name, **_extras(_doc(model), naming.aliases)}
        self.made[full] = made
        outer, self._namespace = self._namespace, full.rpartition(".")[0]
        made["fields"] = [self._field(f"{name}.{key}", key, info, model) for key, info in model.model_fields.items()]
        self._namespace = outer
        return self._located(made, model, None)

    def _located(self, made: dict[str, Any], owner: type, field: str | None) -> dict[str, Any]:
        return Located(made, self._locate(owner, field)) if self._locate else made

    def _claim(self, path: str, name: str, owner: Any) -> str:  # noqa: ANN401 - what tells two types apart
        full = name if "." in name or not self._namespace else f"{self._namespace}.{name}"
        if self.named.setdefault(full, owner) != owner:
            raise SchemaError(f"{path}: two types are named {full} in one schema; rename one of them.")
        return full

    def _known(self, name: str, owner: Any) -> str | None:  # noqa: ANN401 - see _claim
        """Return how a type is referred to here, if it was written out before."""
        full = name if "." in name or not self._namespace else f"{self._namespace}.{name}"
        for each in (full, *(known for known, its in self.named.items() if its is owner and isinstance(its, type))):
            if self.named.get(each) == owner:
                space, _, short = each.rpartition(".")
                return short if space == self._namespace else each
        return None

    def _field(self, path: str, key: str, info: FieldInfo, owner: type[BaseModel]) -> dict[str, Any]:
        schema = self._type(path, info.annotation, list(info.metadata))
        made: dict[str, Any] = {"name": avro_name(key, info), "type": schema}
        if info.description:
            made["doc"] = info.description
        if not info.is_required():
            value = info.get_default(call_default_factory=True, validated_data={})
            made["type"], made["default"] = self._default(path, value, schema)
        if aliases := [name for each in info.metadata if isinstance(each, Aliases) for name in each.names]:
            made["aliases"] = aliases
        return self._located(made, owner, key)

    def _default(self, path: str, value: Any, schema: Schema) -> tuple[Schema, Any]:  # noqa: ANN401 - any value
        """Before Avro 1.12, a union's default must fit its first branch."""
        try:
            branch = branch_of(value, schema, self._lookup)
            default = json_of(value, branch, self._lookup)
        except ValueError as error:
            raise SchemaError(f"{path}: its default cannot be written in a schema: {error}.") from error
        return sorted(schema, key=lambda each: each is not branch) if isinstance(schema, list) else schema, default

    def _lookup(self, schema: Schema) -> Schema:
        """Return what a name stands for here."""
        if not isinstance(schema, str):
            return schema
        return self.made.get(f"{self._namespace}.{schema}", self.made.get(schema, schema))

    def _type(self, path: str, annotation: Any, metadata: list[Any]) -> Schema:  # noqa: ANN401 - any annotation
        for marker in metadata:
            if isinstance(marker, As):
                return marker.schema
            if isinstance(marker, Fixed):
                return self._fixed(path, annotation, metadata, marker)
        if annotation is datetime:
            raise SchemaError(f"{path}: datetime may lack a time zone; say AwareDatetime or NaiveDatetime.")
        if annotation is Decimal:
            return _decimal(path, metadata)
        if annotation in PRIMITIVES:
            return PRIMITIVES[annotation]
        if get_origin(annotation) is not None:
            return self._generic(path, get_origin(annotation), get_args(annotation), metadata)
        if annotation is Duration:
            return self._fixed(path, annotation, metadata, Fixed("Duration", 12))
        return self._class(path, annotation)

    def _class(self, path: str, annotation: Any) -> Schema:  # noqa: ANN401 - any annotation
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            naming = naming_of(annotation)
            name = naming.name or annotation.__name__
            return self._enum(path, name, [member.value for member in annotation], annotation, naming)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            name = naming_of(annotation).name or annotation.__name__
            return self._known(name, annotation) or self.record(annotation, name, path)
        raise _no_counterpart(path, annotation)

    def _generic(self, path: str, origin: Any, args: tuple[Any, ...], metadata: list[Any]) -> Schema:  # noqa: ANN401 - any annotation
        if origin is Annotated:
            return self._type(path, args[0], [*metadata, *_flat(args[1:])])
        if origin in {Union, types.UnionType}:
            return self._union(path, [self._type(path, arg, metadata) for arg in args])
        if origin is Literal:
            return self._enum(path, path.replace(".", "_"), list(args), args, Naming(None, (), None, None))
        if origin in {list, set, frozenset} or (origin is tuple and args[1:] == (...,)):
            return {"type": "array", "items": self._type(path, args[0], [])}
        if origin is dict and args[0] is str:
            return {"type": "map", "values": self._type(path, args[1], [])}
        raise _no_counterpart(path, origin)

    def _fixed(self, path: str, annotation: Any, metadata: list[Any], fixed: Fixed) -> Schema:  # noqa: ANN401 - see _type
        logical: dict[str, Any] = {}
        if annotation is Decimal:
            logical = {key: value for key, value in _decimal(path, metadata).items() if key != "type"}
        elif annotation in LOGICAL_IN_FIXED:
            logical = {"logicalType": LOGICAL_IN_FIXED[annotation]}
        elif annotation is not bytes:
            raise SchemaError(
                f"{path}: Fixed is for bytes, Decimal, UUID or Duration; in a union, for one branch of it."
            )
        owner = ("fixed", fixed.size, str(logical))
        if known := self._known(fixed.name, owner):
            return known
        extras = _extras(fixed.doc, tuple(fixed.aliases))
        full = self._claim(path, fixed.name, owner)
        self.made[full] = {"type": "fixed", "name": fixed.name, **extras, "size": fixed.size, **logical}
        return self.made[full]

    def _enum(self, path: str, name: str, symbols: list[Any], owner: Any, naming: Naming) -> Schema:  # noqa: ANN401 - see _claim
        if not all(isinstance(symbol, str) and symbol.isidentifier() and symbol.isascii() for symbol in symbols):
            raise SchemaError(f"{path}: Avro enums hold identifiers, not {symbols!r}. Use str with a validator.")
        if naming.default is not None and naming.default not in symbols:
            raise SchemaError(f"{path}: the default {naming.default!r} of {name} is not one of its symbols.")
        if known := self._known(name, owner):
            return known
        last = {} if naming.default is None else {"default": naming.default}
        extras = _extras(naming.doc, naming.aliases)
        full = self._claim(path, name, owner)
        self.made[full] = {"type": "enum", "name": name, **extras, "symbols": symbols, **last}
        return self.made[full]

    def _union(self, path: str, branches: list[Schema]) -> Schema:
        kinds = [_kind(branch) for branch in branches]
        if len(set(kinds)) < len(kinds):
            raise SchemaError(f"{path}: an Avro union holds each kind of type once, not {kinds}.")
        return branches


def _extras(doc: str | None, aliases: tuple[str, ...]) -> dict[str, Any]:
    return {**({"doc": doc} if doc else {}), **({"aliases": list(aliases)} if aliases else {})}


def _doc(model: type[BaseModel]) -> str | None:
    """Python 3.13 takes the indentation out of docstrings; the schema must not hang on the version."""
    own = model.__doc__ if "__doc__" in vars(model) else None
    return naming_of(model).doc or (inspect.cleandoc(own).strip() if own else None)


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
