"""Avro definitions as values: full names, references written out, and what is the same definition.

A registry does not always give back the text that it was given: those that are written in Java print the schema anew,
with name and namespace apart.
"""

import hashlib
import json
from typing import Any, Final

_NAMED: Final = frozenset({"record", "error", "enum", "fixed"})
_PRIMITIVE: Final = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


def full_name(schema: dict[str, Any], namespace: str = "") -> str:
    """Return the full name of a named schema that stands in ``namespace``."""
    name = str(schema.get("name", ""))
    space = str(schema.get("namespace", namespace))
    return name if "." in name or not space else f"{space}.{name}"


def fingerprint(schema: dict[str, Any]) -> str:
    """Return the SHA-256 of a definition, in hexadecimal: the same for texts that say the same.

    Everything counts, docs, aliases and unknown attributes too; spelling does not: the order of keys, name and
    namespace apart or together, a primitive type by name or as an object.
    """
    canonical = json.dumps(_canonical(schema, ""), separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Say whether two definitions say the same."""
    return one == other or fingerprint(one) == fingerprint(other)


def _canonical(schema: Any, namespace: str) -> Any:  # noqa: ANN401 - Avro's JSON
    if isinstance(schema, str):
        return schema if schema in _PRIMITIVE or "." in schema or not namespace else f"{namespace}.{schema}"
    if isinstance(schema, list):
        return [_canonical(branch, namespace) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    made = {key: _number(value) for key, value in schema.items() if (key, value) != ("order", "ascending")}
    if isinstance(kind, str) and kind in _NAMED:
        made["name"] = full_name(schema, namespace)
        made.pop("namespace", None)
        namespace = made["name"].rpartition(".")[0]
        made |= _full_aliases(schema, namespace)
        if "fields" in schema:
            made["fields"] = [_canonical_field(field, namespace) for field in schema["fields"]]
        return made
    for inner in ("items", "values"):
        if inner in schema:
            made[inner] = _canonical(schema[inner], namespace)
    made["type"] = kind if kind in {"array", "map"} else _canonical(kind, namespace)
    return made["type"] if len(made) == 1 else made


def _canonical_field(field: dict[str, Any], namespace: str) -> dict[str, Any]:
    made = {key: _number(value) for key, value in field.items() if (key, value) != ("order", "ascending")}
    return {**made, "type": _canonical(field["type"], namespace)}


def _full_aliases(schema: dict[str, Any], namespace: str) -> dict[str, Any]:
    aliases = schema.get("aliases")
    if not aliases:
        return {}
    return {"aliases": [alias if "." in alias or not namespace else f"{namespace}.{alias}" for alias in aliases]}


def _number(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    """1.0 and 1 are one default of a double."""
    if isinstance(value, dict):
        return {key: _number(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_number(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def inlined(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return ``schema`` with the definitions of ``known`` (by full name) where it first names them."""
    if not known:
        return schema
    written: dict[str, Any] = _Inlining(dict(known)).walk(schema, "")
    return written


class _Inlining:
    """One walk, depth first, as Avro reads a schema: a name is defined where it stands first."""

    def __init__(self, left: dict[str, Any]) -> None:
        self._left = left

    def walk(self, schema: Any, namespace: str) -> Any:  # noqa: ANN401 - Avro's JSON
        if isinstance(schema, str):
            return self._name(schema, namespace)
        if isinstance(schema, list):
            return [self.walk(branch, namespace) for branch in schema]
        if not isinstance(schema, dict):
            return schema
        kind = schema.get("type")
        if kind in _NAMED:
            name = full_name(schema, namespace)
            self._left.pop(name, None)
            namespace = name.rpartition(".")[0]
        if kind in {"record", "error"}:
            fields = [{**field, "type": self.walk(field["type"], namespace)} for field in schema["fields"]]
            return {**schema, "fields": fields}
        inner = {"array": "items", "map": "values"}.get(kind) if isinstance(kind, str) else "type"
        return {**schema, inner: self.walk(schema[inner], namespace)} if inner else schema

    def _name(self, name: str, namespace: str) -> Any:  # noqa: ANN401 - Avro's JSON
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        found = self._left.pop(full, None) or self._left.pop(name, None)
        if found is None:
            return name
        # Its names are relative to no namespace, not to where it is put.
        space = {} if "namespace" in found or "." in found.get("name", "") else {"namespace": ""}
        return self.walk({**found, **space}, "")
