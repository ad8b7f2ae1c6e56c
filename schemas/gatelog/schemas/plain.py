"""A model as the plain values that fastavro writes: made with as few steps as its fields need."""

import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel

from gatelog.schemas.avro import avro_name
from gatelog.schemas.avro_types import naming_of

Convert: TypeAlias = Callable[[Any], Any]
_UNIONS: Final = (Union, types.UnionType)
_NAMED: Final = frozenset({"record", "enum", "fixed"})


def plain_of(model: type[BaseModel], schema: Any) -> Callable[[BaseModel], dict[str, Any]]:  # noqa: ANN401 - Avro's JSON
    """Return a function that turns an instance of ``model`` into a dict; a flat one is its own dict, not a copy.

    ``schema`` is the model's own, as fastavro parses it.
    """
    return _Plan(_named_types(schema)).record(model, schema)


class _Plan:
    """One walk over a model and its schema side by side."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[type[BaseModel], Convert] = {}
        self._making: set[type[BaseModel]] = set()

    def record(self, model: type[BaseModel], schema: Any) -> Convert:  # noqa: ANN401 - Avro's JSON
        if model in self._making:
            return lambda found: self._made[model](found)  # noqa: PLW0108 - it is not made yet
        self._making.add(model)
        fields = {field["name"]: field["type"] for field in self._resolved(schema)["fields"]}
        names = {key: avro_name(key, info) for key, info in model.model_fields.items()}
        converts = {
            key: convert
            for key, info in model.model_fields.items()
            if (convert := self._convert(info.annotation, fields[names[key]])) is not None
        }
        renamed = {key: name for key, name in names.items() if key != name}
        self._made[model] = _record(tuple(converts.items()), tuple(renamed.items()))
        return self._made[model]

    def _convert(self, annotation: Any, schema: Any) -> Convert | None:  # noqa: ANN401 - any annotation, Avro's JSON
        """Return what a field's value needs, None where fastavro takes it as it is."""
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._convert(args[0], schema)
        if origin in _UNIONS:
            return self._union([arg for arg in args if arg is not type(None)], schema)
        if origin in {list, set, frozenset, tuple}:
            item = self._convert(args[0], self._resolved(schema)["items"])
            if item is not None:
                return lambda found: [item(each) for each in found]
            return list if origin in {set, frozenset} else None
        if origin is dict:
            value = self._convert(args[1], self._resolved(schema)["values"])
            return None if value is None else lambda found: {key: value(each) for key, each in found.items()}
        if isinstance(annotation, type) and issubclass(annotation, Enum):
            return _value
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self.record(annotation, schema)
        if annotation is UUID and isinstance(fixed := self._resolved(schema), dict) and fixed["type"] == "fixed":
            return _bytes
        return None

    def _union(self, branches: list[Any], schema: Any) -> Convert | None:  # noqa: ANN401 - Avro's JSON
        among = [self._resolved(each) for each in schema if each != "null"]
        if len(branches) == 1:
            only = self._convert(branches[0], among[0])
            return None if only is None else lambda found: None if found is None else only(found)
        models = {each: self._branch(each, among) for each in map(_bare, branches) if _is_model(each)}
        rest = [each for each in branches if not _is_model(_bare(each))]
        others = [(each, self._convert(each, _kind_of(each, among))) for each in rest]
        if not models and not any(convert for _, convert in others):
            return None
        return _one_of(models, [(_class_of(each), convert) for each, convert in others if convert is not None])

    def _branch(self, model: type[BaseModel], among: list[Any]) -> tuple[str, Convert]:
        """Return the full name of a model's branch, which fastavro is told: it would guess by the fields."""
        short = (naming_of(model).name or model.__name__).rpartition(".")[2]
        schema = next(each for each in among if _is_record(each) and each["name"].rpartition(".")[2] == short)
        return schema["name"], self.record(model, schema)

    def _resolved(self, schema: Any) -> Any:  # noqa: ANN401 - Avro's JSON
        return self._named.get(schema, schema) if isinstance(schema, str) else schema


def _record(converts: tuple[tuple[str, Convert], ...], renamed: tuple[tuple[str, str], ...]) -> Convert:
    if not converts and not renamed:
        return lambda event: event.__dict__

    def plain(event: BaseModel) -> dict[str, Any]:
        found = event.__dict__.copy()
        for key, convert in converts:
            found[key] = convert(found[key])
        if renamed:
            moved = {name: found.pop(key) for key, name in renamed}
            found.update(moved)
        return found

    return plain


def _one_of(models: dict[type[BaseModel], tuple[str, Convert]], others: list[tuple[type, Convert]]) -> Convert:
    def plain(found: Any) -> Any:  # noqa: ANN401 - a field's value
        branch = models.get(type(found)) or next((b for m, b in models.items() if isinstance(found, m)), None)
        if branch is not None:
            return (branch[0], branch[1](found))
        for kind, convert in others:
            if isinstance(found, kind):
                return convert(found)
        return found

    return plain


def _bare(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _class_of(annotation: Any) -> type:  # noqa: ANN401 - any annotation
    bare = _bare(annotation)
    found: type = get_origin(bare) or bare
    return found


def _is_model(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_record(schema: Any) -> bool:  # noqa: ANN401 - Avro's JSON
    return isinstance(schema, dict) and schema["type"] == "record"


def _kind_of(annotation: Any, among: list[Any]) -> Any:  # noqa: ANN401 - any annotation, Avro's JSON
    """Return the branch of a list or dict; a union has one of each at most."""
    kind = "map" if _class_of(annotation) is dict else "array"
    return next((each for each in among if isinstance(each, dict) and each["type"] == kind), None)


def _bytes(found: UUID) -> bytes:
    return found.bytes


def _value(found: Any) -> Any:  # noqa: ANN401 - an enum's value
    return found.value if isinstance(found, Enum) else found


def _named_types(schema: Any) -> dict[str, Any]:  # noqa: ANN401 - Avro's JSON
    """Return the named types that a parsed schema defines, by full name."""
    found: dict[str, Any] = {}
    left = [schema]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            if node["type"] in _NAMED:
                found[node["name"]] = node
            left += [field["type"] for field in node.get("fields", ())]
            left += [node[key] for key in ("items", "values") if key in node]
    return found
