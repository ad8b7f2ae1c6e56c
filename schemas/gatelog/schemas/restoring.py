"""From what fastavro reads to what a model takes: which branch of a union it was, and defaults as values.

fastavro gives a record of a union as a dict, which does not say which of two records with the same fields it is, and
a default as the JSON that stands in the schema, where 17000 may be a date.
"""

import copy
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel

from gatelog.schemas.avro_types import Duration
from gatelog.schemas.defaults import value_of
from gatelog.schemas.parsing import parse
from gatelog.schemas.registry import AvroSchema
from gatelog.schemas.tree import PRIMITIVES, Record, named_types

Parsed = Any  # a schema as fastavro parses it
_NAMED: Final = frozenset({"record", "enum", "fixed"})
_NUMBERS: Final = ("int", "long", "float", "double")


def has_alternatives(parsed: Parsed) -> bool:
    """Say whether a union in the schema has a named type and more than null beside it: the name tells what it is."""
    unions = ([branch for branch in node if branch != "null"] for node in _nodes(parsed) if isinstance(node, list))
    return any(len(union) > 1 and any(map(_is_named, union)) for union in unions)


def restored(value: Any, classes: Mapping[str, type]) -> Any:  # noqa: ANN401 - any value
    """Return a value that was read with its names in unions (``(name, value)``), as instances of the classes.

    Raises:
        ValidationError: a record is not a legal one of its class.
    """
    if isinstance(value, tuple):
        name, inner = value
        cls = classes.get(name)
        if cls is not None and issubclass(cls, BaseModel):
            return cls.model_validate(restored(inner, classes))
        if cls is Duration:
            return Duration.of(inner)
        return cls(inner) if cls is not None and issubclass(cls, Enum) else inner
    if isinstance(value, dict):
        return {key: restored(each, classes) for key, each in value.items()}
    return [restored(each, classes) for each in value] if isinstance(value, list) else value


def with_values(parsed: Parsed, definition: AvroSchema) -> Parsed:
    """Return a parsed schema to resolve to.

    It gives defaults as the values that a decoder would return. In unions, narrow numbers stand first: fastavro takes
    the first branch that a number can be promoted to, and would read a long as a double although there is a long.
    """
    records = {each.name: each for each in named_types(parse(definition)) if isinstance(each, Record)}
    made = copy.deepcopy(parsed)
    for node in _nodes(made):
        if isinstance(node, dict) and node.get("type") == "record":
            types = {field.name: field for field in records[node["name"]].fields}
            for field in node["fields"]:
                if "default" in field:
                    field["default"] = value_of(types[field["name"]].type, field["default"])
        elif isinstance(node, list):
            node.sort(key=_width)
    return made


def _width(branch: Parsed) -> int:
    kind = branch["type"] if isinstance(branch, dict) else branch
    return _NUMBERS.index(kind) if kind in _NUMBERS else -1


def _is_named(branch: Parsed) -> bool:
    return branch["type"] in _NAMED if isinstance(branch, dict) else branch not in PRIMITIVES


def _nodes(parsed: Parsed) -> Iterator[Parsed]:
    left = [parsed]
    while left:
        node = left.pop()
        yield node
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            left += [field["type"] for field in node.get("fields", ())]
            left += [node[key] for key in ("items", "values") if key in node]
