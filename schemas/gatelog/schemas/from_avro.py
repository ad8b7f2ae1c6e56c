"""The other way round: a model from an Avro schema, for programs that have no class for it (the command line)."""

from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NaiveDatetime, create_model

from gatelog.core.errors import SchemaError
from gatelog.schemas.event import Event

_INT: Final = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_LONG: Final = Annotated[int, Field(ge=-(2**63), lt=2**63)]

_PRIMITIVES: Final[dict[str, Any]] = {
    "null": None,
    "boolean": bool,
    "int": _INT,
    "long": _LONG,
    "float": float,
    "double": float,
    "bytes": bytes,
    "string": str,
}
_LOGICAL: Final[dict[str, Any]] = {
    "uuid": UUID,
    "date": date,
    "time-millis": time,
    "time-micros": time,
    "timestamp-millis": AwareDatetime,
    "timestamp-micros": AwareDatetime,
    "local-timestamp-millis": NaiveDatetime,
    "local-timestamp-micros": NaiveDatetime,
}


def model_from(schema: dict[str, Any]) -> type[Event]:
    """Return a model whose events are written with exactly this record schema.

    Raises:
        SchemaError: it is not a record, or uses what has no counterpart (recursion, duration).
    """
    if schema.get("type") != "record":
        raise SchemaError(f"An event's schema is a record, not {schema.get('type')!r}.")
    fields = _Mapping().fields(schema)

    class FromAvro(Event, event_type=schema["name"]):
        @classmethod
        def avro_schema(cls) -> dict[str, Any]:
            return schema

    made: type[Event] = create_model(
        schema["name"], __base__=FromAvro, __cls_kwargs__={"event_type": schema["name"]}, **fields
    )
    return made


class _Mapping:
    """One schema's walk; named types can be referred to after they were defined."""

    def __init__(self) -> None:
        self._named: dict[str, Any] = {}

    def fields(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {field["name"]: (self.type_of(field["type"]), _default(field)) for field in schema["fields"]}

    def type_of(self, schema: Any) -> Any:  # noqa: ANN401 - JSON in, an annotation out
        if isinstance(schema, list):
            return reduce(or_, (self.type_of(branch) for branch in schema))
        if isinstance(schema, str):
            return self._name(schema)
        logical = schema.get("logicalType")
        if logical == "decimal":
            limits = Field(max_digits=schema["precision"], decimal_places=schema.get("scale", 0))
            return Annotated[Decimal, limits]
        if logical in _LOGICAL:
            return _LOGICAL[logical]
        made = self._complex.get(schema["type"])
        return self._name(schema["type"]) if made is None else made(self, schema)

    def _name(self, name: Any) -> Any:  # noqa: ANN401 - see type_of
        if isinstance(name, (dict, list)):
            return self.type_of(name)
        if name in _PRIMITIVES:
            return _PRIMITIVES[name]
        if name in self._named:
            return self._named[name]
        raise SchemaError(f"Type {name!r} is used before it is defined (recursive schemas have no model yet).")

    def _record(self, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - see type_of
        made = create_model(schema["name"], __base__=_Nested, **self.fields(schema))
        self._named[schema["name"]] = made
        return made

    def _enum(self, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - see type_of
        self._named[schema["name"]] = made = Literal[tuple(schema["symbols"])]
        return made

    def _fixed(self, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - see type_of
        size = schema["size"]
        self._named[schema["name"]] = made = Annotated[bytes, Field(min_length=size, max_length=size)]
        return made

    def _array(self, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - see type_of
        return list[self.type_of(schema["items"])]  # type: ignore[misc] # the item type is known at run time only

    def _map(self, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - see type_of
        return dict[str, self.type_of(schema["values"])]  # type: ignore[misc] # the value type is known at run time only

    _complex: Final[dict[str, Callable[["_Mapping", dict[str, Any]], Any]]] = {
        "record": _record,
        "enum": _enum,
        "fixed": _fixed,
        "array": _array,
        "map": _map,
    }


class _Nested(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _default(field: dict[str, Any]) -> Any:  # noqa: ANN401 - a JSON value, or pydantic's "required"
    return field.get("default", ...)
