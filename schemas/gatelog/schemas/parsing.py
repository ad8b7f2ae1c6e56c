"""Avro JSON to its tree; what the specification forbids is refused with its place."""

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from gatelog.core.errors import SchemaError
from gatelog.schemas.defaults import value_of
from gatelog.schemas.tree import (
    MISSING,
    PRIMITIVES,
    Array,
    Enum,
    Field,
    Fixed,
    Logical,
    Map,
    Primitive,
    Record,
    Type,
    Union,
    kind_of,
)

DEPTH_MAX: Final = 64  # of types within types; deeper ones are refused
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_KNOWN_LOGICAL: Final = {
    "decimal": {"bytes", "fixed"},
    "uuid": {"string", "fixed"},
    "date": {"int"},
    "time-millis": {"int"},
    "time-micros": {"long"},
    "timestamp-millis": {"long"},
    "timestamp-micros": {"long"},
    "local-timestamp-millis": {"long"},
    "local-timestamp-micros": {"long"},
    "duration": {"fixed"},
}


def parse(schema: Any, source: str = "schema") -> Type:  # noqa: ANN401 - any JSON value
    """Return the tree of an Avro schema; unknown logical types are left out, as the specification asks.

    Raises:
        SchemaError: it is not a legal schema; the message begins with ``source`` and names the place.
    """
    parser = _Parser(source)
    try:
        root = parser.type(schema, "", "", 0)
    except RecursionError:
        raise SchemaError(f"{source}: types are nested too deeply.") from None
    parser.check_defaults()
    return root


class _Parser:
    """One schema's walk. Paths are dotted: ``Order.lines[].sku``."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._named: dict[str, Type] = {}
        self._defaults: list[tuple[str, Field]] = []

    def check_defaults(self) -> None:
        """At the end, when all types are known: a default may be of a record that is not complete yet."""
        for path, field in self._defaults:
            try:
                value_of(field.type, field.default)
            except ValueError as error:
                raise self.error(path, f"its default does not fit its type: {error}", field) from None

    def error(self, path: str, why: str, node: Any = None) -> SchemaError:  # noqa: ANN401 - any JSON value
        place = getattr(node, "place", None) or self._source
        return SchemaError(f"{place}: {f'{path}: ' if path else ''}{why}")

    def type(self, schema: Any, namespace: str, path: str, depth: int) -> Type:  # noqa: ANN401 - any JSON value
        if depth > DEPTH_MAX:
            raise self.error(path[:200], f"types are nested more than {DEPTH_MAX} deep.")
        if isinstance(schema, list):
            return self._union(schema, namespace, path, depth)
        if isinstance(schema, str):
            return self._reference(schema, namespace, path)
        if not isinstance(schema, dict) or "type" not in schema:
            raise self.error(path, f"{_short(schema)} is not a type; an object with 'type' is.", schema)
        kind = schema["type"]
        if isinstance(kind, (dict, list)):  # {"type": {"type": "array", …}} says no more than the inner one
            return self.type(kind, namespace, path, depth + 1)
        if kind in _COMPLEX:
            return _COMPLEX[kind](self, schema, namespace, path, depth + 1)
        if kind in PRIMITIVES:
            return Primitive(kind, self._logical(schema, kind, path))
        return self._reference(kind, namespace, path)

    def _reference(self, name: Any, namespace: str, path: str) -> Type:  # noqa: ANN401 - any JSON value
        if name in PRIMITIVES:
            return Primitive(name)
        if isinstance(name, str) and (full := _full(name, namespace)) in self._named:
            return self._named[full]
        raise self.error(path, f"{_short(name)} is neither an Avro type nor defined before this place.")

    def _union(self, branches: list[Any], namespace: str, path: str, depth: int) -> Union:
        made = [self.type(branch, namespace, path, depth + 1) for branch in branches]
        kinds = [kind_of(branch) for branch in made]
        if "union" in kinds:
            raise self.error(path, "a union holds no union.")
        if len(set(kinds)) < len(kinds):
            raise self.error(path, f"a union holds each kind of type once, not {', '.join(kinds)}.")
        return Union(made)

    def _array(self, schema: dict[str, Any], namespace: str, path: str, depth: int) -> Array:
        if "items" not in schema:
            raise self.error(path, "an array needs 'items'.", schema)
        return Array(self.type(schema["items"], namespace, f"{path}[]", depth))

    def _map(self, schema: dict[str, Any], namespace: str, path: str, depth: int) -> Map:
        if "values" not in schema:
            raise self.error(path, "a map needs 'values'.", schema)
        return Map(self.type(schema["values"], namespace, f"{path}{{}}", depth))

    def _named_of(self, schema: dict[str, Any], namespace: str, path: str) -> tuple[str, list[str], str | None]:
        name, own = schema.get("name"), schema.get("namespace", namespace)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self.error(path, f"a {schema['type']} has no legal name: {_short(name)}.", schema)
        if not isinstance(own, str) or (own and not _NAME.fullmatch(own)):
            raise self.error(path or name, f"{_short(own)} is not a namespace.", schema)
        full = _full(name, own)
        if full in self._named or full in PRIMITIVES:
            raise self.error(path or name, f"the name {full} is taken already.", schema)
        aliases = [_full(alias, full.rpartition(".")[0]) for alias in self._names(schema, "aliases", path or name)]
        return full, aliases, self._text(schema, "doc", path or name)

    def _record(self, schema: dict[str, Any], namespace: str, path: str, depth: int) -> Record:
        name, aliases, doc = self._named_of(schema, namespace, path)
        self._named[name] = made = Record(name, aliases, doc, getattr(schema, "place", None))
        fields = schema.get("fields")
        if not isinstance(fields, list):
            raise self.error(path or name, "a record needs 'fields', a list.", schema)
        known: set[str] = set()
        for each in fields:
            field = self._field(each, made, path or made.short, depth)
            if field.name in known:
                raise self.error(path or name, f"the field {field.name} is there twice.", each)
            known.add(field.name)
            made.fields.append(field)
        return made

    def _field(self, schema: Any, record: Record, path: str, depth: int) -> Field:  # noqa: ANN401 - any JSON value
        name = schema.get("name") if isinstance(schema, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name) or "." in name or "type" not in schema:
            raise self.error(path, f"{_short(schema)} is not a field with a legal name and a type.", schema)
        path = f"{path}.{name}"
        made = Field(
            name=name,
            type=self.type(schema["type"], record.namespace, path, depth),
            default=schema.get("default", MISSING),
            aliases=self._names(schema, "aliases", path),
            doc=self._text(schema, "doc", path),
            place=getattr(schema, "place", None),
        )
        if made.has_default:
            self._defaults.append((path, made))
        return made

    def _enum(self, schema: dict[str, Any], namespace: str, path: str, _depth: int) -> Enum:
        name, aliases, doc = self._named_of(schema, namespace, path)
        symbols, default = self._names(schema, "symbols", path or name), schema.get("default")
        if len(set(symbols)) < len(symbols):
            raise self.error(path or name, "a symbol is there twice.", schema)
        if default is not None and default not in symbols:
            raise self.error(path or name, f"the default {_short(default)} is not one of the symbols.", schema)
        self._named[name] = made = Enum(
            name, aliases, doc, getattr(schema, "place", None), symbols=symbols, default=default
        )
        return made

    def _fixed(self, schema: dict[str, Any], namespace: str, path: str, _depth: int) -> Fixed:
        name, aliases, doc = self._named_of(schema, namespace, path)
        size = schema.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise self.error(path or name, f"a fixed needs a size, not {_short(size)}.", schema)
        logical = self._logical(schema, "fixed", path or name)
        self._named[name] = made = Fixed(name, aliases, doc, getattr(schema, "place", None), logical, size=size)
        return made

    def _logical(self, schema: dict[str, Any], kind: str, path: str) -> Logical | None:
        name = schema.get("logicalType")
        if not isinstance(name, str) or kind not in _KNOWN_LOGICAL.get(name, ()):
            return None
        if name != "decimal":
            size = {"uuid": 16, "duration": 12}.get(name) if kind == "fixed" else None
            return Logical(name) if size in {None, schema.get("size")} else None
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if (
            not isinstance(precision, int)
            or not isinstance(scale, int)
            or not 0 <= scale <= precision
            or not precision
        ):
            raise self.error(path, f"decimal({_short(precision)}, {_short(scale)}): 0 <= scale <= precision.", schema)
        return Logical(name, precision, scale)

    def _names(self, schema: dict[str, Any], key: str, path: str) -> list[str]:
        names = schema.get(key, [])
        if not isinstance(names, list) or not all(isinstance(each, str) and _NAME.fullmatch(each) for each in names):
            raise self.error(path, f"{key} is a list of names, not {_short(names)}.", schema)
        return list(names)

    def _text(self, schema: dict[str, Any], key: str, path: str) -> str | None:
        text = schema.get(key)
        if text is not None and not isinstance(text, str):
            raise self.error(path, f"{key} is text, not {_short(text)}.", schema)
        return text


def _full(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _short(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = repr(dict(value) if isinstance(value, dict) else value)
    return text if len(text) <= 80 else f"{text[:77]}…"


_Complex: TypeAlias = Callable[[_Parser, dict[str, Any], str, str, int], Type]
_COMPLEX: Final[dict[str, _Complex]] = {
    "array": _Parser._array,
    "map": _Parser._map,
    "record": _Parser._record,
    "error": _Parser._record,
    "enum": _Parser._enum,
    "fixed": _Parser._fixed,
}
