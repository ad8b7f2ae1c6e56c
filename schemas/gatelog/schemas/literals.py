"""Python expressions for the defaults of a schema, and the names that generated code uses."""

import ast
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

from gatelog.schemas.avro_types import Duration
from gatelog.schemas.defaults import value_of
from gatelog.schemas.tree import Array, Enum, Field, Map, Record, Type, Union

_TYPES: Final = "gatelog.schemas.avro_types"
IMPORTS: Final[Mapping[str, str]] = {  # a name: the module that it comes from
    "dt": "",
    "Decimal": "decimal",
    "StrEnum": "enum",
    "Annotated": "typing",
    "Union": "typing",
    "UUID": "uuid",
    "AwareDatetime": "pydantic",
    "BaseModel": "pydantic",
    "ConfigDict": "pydantic",
    "Field": "pydantic",
    "NaiveDatetime": "pydantic",
    "Event": "gatelog.schemas",
    "Aliases": _TYPES,
    "Duration": _TYPES,
    "Fixed": _TYPES,
    "Float32": _TYPES,
    "Int32": _TYPES,
    "LocalTimestampMillis": _TYPES,
    "TimeMillis": _TYPES,
    "TimestampMillis": _TYPES,
    "named": _TYPES,
}


class Namer(Protocol):
    """What the expressions of defaults need to know of the classes."""

    def type(self, node: Type) -> str: ...
    def attribute(self, record: Record, field: Field) -> str: ...
    def member(self, enum: Enum, symbol: str) -> str: ...


def literal(node: Type, default: Any, names: Namer, *, exact: bool) -> str:  # noqa: ANN401 - a JSON value
    """Return the expression of a default.

    Raises:
        ValueError: ``exact`` is wanted, and it is of another branch of a union than the first.
    """
    match node:
        case Union():
            return _of_union(node, default, names, exact=exact)
        case Record():
            given = {field.name: default.get(field.name, field.default) for field in node.fields}
            parts = [
                f"{names.attribute(node, field)}={literal(field.type, given[field.name], names, exact=False)}"
                for field in node.fields
            ]
            return f"{names.type(node)}({', '.join(parts)})"
        case Enum():
            return names.member(node, default)
        case Array():
            return f"[{', '.join(literal(node.items, each, names, exact=False) for each in default)}]"
        case Map():
            pairs = (f"{key!r}: {literal(node.values, each, names, exact=False)}" for key, each in default.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return _scalar(node, value_of(node, default))


def _of_union(node: Union, default: Any, names: Namer, *, exact: bool) -> str:  # noqa: ANN401 - a JSON value
    for number, branch in enumerate(node.branches):
        try:
            value_of(branch, default)
        except ValueError:
            continue
        if exact and number > 0:
            raise ValueError(
                "put the branch of the default first in the union, as libraries before Avro 1.12 need it"
            )
        return literal(branch, default, names, exact=exact)
    raise ValueError(f"{default!r} fits no branch")


def _scalar(node: Type, value: Any) -> str:  # noqa: ANN401 - a value of any type
    if node.logical and node.logical.name == "duration":
        return repr(Duration.of(value))
    match value:
        case Decimal():
            return f"Decimal({str(value)!r})"
        case UUID():
            return f"UUID({str(value)!r})"
        case datetime() | date() | time():
            return repr(value).replace("datetime.timezone.utc", "dt.UTC").replace("datetime.", "dt.", 1)
        case _:
            return repr(value)


def names_in(source: str) -> set[str]:
    """Return the names that Python source, or an annotation in quotes within it, refers to."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Constant):
            found |= names_in(str(node.annotation.value))
    return found
