"""A model as the plain values that fastavro writes: made with as few steps as its fields need."""

import types
from collections.abc import Callable, Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, NaiveDatetime

from gatelog.schemas.avro import PRIMITIVES, avro_name
from gatelog.schemas.avro_types import As, Duration, Fixed, naming_of

Convert: TypeAlias = Callable[[Any], Any]
_UNIONS: Final = (Union, types.UnionType)
_DATETIMES: Final = (AwareDatetime, NaiveDatetime)
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
        if isinstance(schema, list) and len(schema) == 1:
            schema = schema[0]
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
        return _CHECKS.get(annotation)

    def _union(self, branches: list[Any], schema: Any) -> Convert | None:  # noqa: ANN401 - Avro's JSON
        among = [self._resolved(each) for each in schema if each != "null"]
        if len(branches) == 1:
            only, tag = self._convert(branches[0], among[0]), _name_of(among[0])
            return None if only is None else lambda found: None if found is None else (tag, only(found))
        models = {each: self._branch(each, among) for each in map(_bare, branches) if _is_model(each)}
        rest = [each for each in branches if not _is_model(_bare(each))]
        others = [(each, self._convert(each, _kind_of(each, among))) for each in rest]
        tags = _tags(rest, among)
        if not models and not tags and not any(convert for _, convert in others):
            return None
        converts = [
            (_class_of(each), _name_of(_kind_of(each, among)), convert)
            for each, convert in others
            if convert is not None and _bare(each) not in tags
        ]
        return _one_of(models, converts, tags)

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


def _tags(annotations: list[Any], among: list[Any]) -> dict[Any, str]:
    """Return the branches of values by class, and of fixed by length; of two for one class, the wider.

    fastavro would guess: a datetime is a date, an int a double, bytes an array, and text a UUID.
    """
    found: dict[Any, str] = {}
    for annotation in annotations:
        bare, markers = _bare(annotation), _markers(annotation)
        fixed = next((each for each in markers if isinstance(each, Fixed)), None)
        if fixed is not None:
            found.setdefault(fixed.size if bare is bytes else bare, _full(fixed.name, among))
        elif isinstance(bare, type) and issubclass(bare, (Enum, Duration)):
            found[bare] = _full(naming_of(bare).name or bare.__name__, among)
        elif bare is Decimal:
            found[bare] = "bytes"
        elif bare in PRIMITIVES:
            schema = next((each.schema for each in markers if isinstance(each, As)), PRIMITIVES[bare])
            cls, tag = datetime if bare in _DATETIMES else bare, _name_of(schema)
            if tag in {"long", "double"} or cls not in found:
                found[cls] = tag
    return found


def _full(name: str, among: list[Any]) -> str:
    """Return the full name of a named branch."""
    short = name.rpartition(".")[2]
    return next(name for each in among if (name := _name_of(each)).rpartition(".")[2] == short)


def _markers(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any annotation
    if get_origin(annotation) is not Annotated:
        return ()
    return (*annotation.__metadata__, *_markers(get_args(annotation)[0]))


def _name_of(schema: Any) -> str:  # noqa: ANN401 - Avro's JSON
    """Return what fastavro calls a branch of a union."""
    return str(schema.get("name", schema["type"]) if isinstance(schema, dict) else schema)


def _one_of(
    models: dict[type[BaseModel], tuple[str, Convert]], others: list[tuple[type, str, Convert]], tags: dict[Any, str]
) -> Convert:
    """fastavro is told the branch; within a value that it has to guess the branch of, it would not take that."""

    def plain(found: Any) -> Any:  # noqa: ANN401 - a field's value
        cls = type(found)
        tag = tags.get(cls) if cls is not bytes else tags.get(len(found), tags.get(bytes))
        if tag is not None:
            return (tag, _bytes(found) if cls is UUID and tag != "string" else _CHECKS.get(cls, _value)(found))
        branch = models.get(type(found)) or next((b for m, b in models.items() if isinstance(found, m)), None)
        if branch is not None:
            return (branch[0], branch[1](found))
        for kind, name, convert in others:
            if isinstance(found, kind):
                return (name, convert(found))
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


def _moment(found: datetime) -> datetime:
    """fastavro writes what no datetime is in UTC, and nobody could read it."""
    if not MINYEAR < found.year < MAXYEAR and found.tzinfo is not None:
        try:
            found.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{found.isoformat()} is not within the years 1 to 9999 in UTC") from None
    return found


def _clock(found: time) -> time:
    if found.tzinfo is not None:
        raise ValueError(f"the time {found} has a zone, which Avro's lack: take it off, or make it a datetime")
    return found


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


_CHECKS: Final[dict[Any, Convert]] = {AwareDatetime: _moment, datetime: _moment, time: _clock}
