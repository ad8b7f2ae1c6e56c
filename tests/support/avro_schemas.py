"""Random Avro schemas, random changes to them, and random values of them; the same chance gives the same ones."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

Json = Any
PLAIN = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
LOGICAL: tuple[Json, ...] = (
    {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    {"type": "string", "logicalType": "uuid"},
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-millis"},
    {"type": "long", "logicalType": "local-timestamp-micros"},
)
FIXED_LOGICAL: tuple[Json, ...] = (
    {"size": 12, "logicalType": "duration"},
    {"size": 6, "logicalType": "decimal", "precision": 9, "scale": 3},
)
FIELD_NAMES = (
    "id",
    "name",
    "total",
    "class",
    "from",
    "json",
    "note",
    "copy",
    "at",
    "model_dump",
    "_hidden",
    "schema",
)
SYMBOLS = ("RED", "blue", "GREEN", "None", "mro", "name", "_x")


class Schemas:
    """Makes record schemas. Names of types are unique within one schema."""

    def __init__(self, chance: random.Random, *, logical: bool = True, depth_max: int = 3) -> None:
        self.chance = chance
        self._logical = logical
        self._depth_max = depth_max
        self._named: list[tuple[str, Json]] = []
        self._open: list[str] = []
        self._names = 0

    def record(self, name: str = "Root", namespace: str | None = None) -> Json:
        self._named, self._open, self._names = [], [], 0
        made = self._record(name, 0)
        if namespace:
            made["namespace"] = namespace
        return made

    def type(self, depth: int) -> Json:
        chance = self.chance
        if depth >= self._depth_max or chance.random() < 0.45:
            return self._simple()
        made = chance.choice(
            [self._array, self._map, self._union, self._union, self._enum, self._fixed, self._nested]
        )
        return made(depth + 1)

    def _simple(self) -> Json:
        if self._named and self.chance.random() < 0.15:
            return self.chance.choice(self._named)[0]
        if self._logical and self.chance.random() < 0.4:
            return dict(self.chance.choice(LOGICAL))
        return self.chance.choice(PLAIN[1:])

    def _array(self, depth: int) -> Json:
        return {"type": "array", "items": self.type(depth)}

    def _map(self, depth: int) -> Json:
        return {"type": "map", "values": self.type(depth)}

    def _union(self, depth: int) -> Json:
        branches: list[Json] = ["null"] if self.chance.random() < 0.4 else []
        if self._open and self.chance.random() < 0.2:
            branches.append(self.chance.choice(self._open))
        for _ in range(self.chance.randint(1, 3)):
            known = len(self._named)
            branch = self.type(depth)
            if isinstance(branch, list) or kind(branch) in {kind(each) for each in branches}:
                del self._named[known:]  # not taken, and nothing may refer to what it defined
            else:
                branches.append(branch)
        if not branches or ("null" not in branches and self.chance.random() < 0.5):
            branches.append("null")
        return branches if len(branches) > 1 else [*branches, "int" if branches == ["null"] else "null"]

    def _enum(self, _depth: int) -> Json:
        symbols = self.chance.sample(SYMBOLS, self.chance.randint(1, 4))
        made = {**self._name("Enum", "enum"), "symbols": symbols}
        if self.chance.random() < 0.4:
            made["default"] = self.chance.choice(symbols)
        return self._known(made)

    def _fixed(self, _depth: int) -> Json:
        size: Json = {"size": self.chance.randint(1, 16)}
        if self._logical and self.chance.random() < 0.5:
            size = self.chance.choice(FIXED_LOGICAL)
        return self._known({**self._name("Fixed", "fixed"), **size})

    def _nested(self, depth: int) -> Json:
        self._names += 1
        return self._record(f"Nested{self._names}", depth)

    def _record(self, name: str, depth: int) -> Json:
        self._open.append(name)
        made: Json = {"type": "record", "name": name}
        if self.chance.random() < 0.3:
            made["doc"] = self.chance.choice(["What it is.", 'Says "it"\nin two lines.', "Ünï\\code"])
        if self.chance.random() < 0.3:
            made["aliases"] = [f"Old{name}"]
        names = self.chance.sample(FIELD_NAMES, self.chance.randint(1, 5))
        made["fields"] = [self._field(field, depth) for field in names]
        self._open.pop()
        return self._known(made)

    def _field(self, name: str, depth: int) -> Json:
        made: Json = {"name": name, "type": self.type(depth)}
        if self.chance.random() < 0.3:
            made["doc"] = self.chance.choice(["in bytes", 'a "quoted" \\ one'])
        if self.chance.random() < 0.3:
            made["aliases"] = [f"old{name}", f"older{name}"][: self.chance.randint(1, 2)]
        if self.chance.random() < 0.4 and (default := default_of(made["type"], self.chance)) is not None:
            made["default"] = default[0]
        return made

    def _name(self, prefix: str, what: str) -> Json:
        self._names += 1
        made: Json = {"type": what, "name": f"{prefix}{self._names}"}
        if self.chance.random() < 0.2:
            made["namespace"] = "other.place"
        if self.chance.random() < 0.3:
            made["doc"] = "Why not."
        if self.chance.random() < 0.3:
            made["aliases"] = [f"Old{made['name']}"]
        return made

    def _known(self, schema: Json) -> Json:
        full = f"{schema['namespace']}.{schema['name']}" if "namespace" in schema else schema["name"]
        self._named.append((full, schema))
        return schema


def kind(schema: Json) -> str:
    """Return what may be only once in a union."""
    if isinstance(schema, dict):
        space = f"{schema['namespace']}." if "namespace" in schema else ""
        return space + str(schema["name"] if "name" in schema else schema["type"])
    return "union" if isinstance(schema, list) else str(schema)


def default_of(schema: Json, chance: random.Random) -> tuple[Json] | None:  # noqa: C901 - one case a type
    """Return a legal JSON default, or None where this module makes none."""
    if isinstance(schema, list):
        return default_of(schema[0], chance)
    name = schema["type"] if isinstance(schema, dict) else schema
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    match name:
        case "null":
            return (None,)
        case "boolean":
            return (chance.random() < 0.5,)
        case "int" | "long":
            return (chance.randint(0, 20_000 if logical == "date" else 80_000_000),)
        case "float" | "double":
            return (chance.choice([0.0, -1.5, 3.25e10]),)
        case "bytes":
            return (chance.choice(["", "\u00ff", "a\u0001"]) if logical is None else "\u0001\u00ff",)
        case "string":
            return ("x" if logical is None else "6f9619ff-8b86-d011-b42d-00c04fc964ff",)
        case "array":
            return ([],)
        case "map":
            return ({},)
        case "enum":
            return (schema["symbols"][0],)
        case "fixed":
            return ("\u0000" * (schema["size"] - 1) + "\u0007",)
        case _:
            return None


# --- changes ---------------------------------------------------------------------------------------


def changed(schema: Json, chance: random.Random, steps: int) -> Json:
    """Return a copy with up to ``steps`` random changes; it may be illegal."""
    made = copy.deepcopy(schema)
    for _ in range(steps):
        chance.choice(CHANGES)(made, chance)
    return made


def nodes(schema: Json) -> Iterator[Json]:
    """Yield every object of a schema: types and fields."""
    if isinstance(schema, list):
        for branch in schema:
            yield from nodes(branch)
    elif isinstance(schema, dict):
        yield schema
        for key in ("type", "items", "values"):
            if isinstance(schema.get(key), (dict, list)):
                yield from nodes(schema[key])
        for field in schema.get("fields", []):
            yield from nodes(field)


def _some(schema: Json, chance: random.Random, fits: Callable[[Json], bool]) -> Json | None:
    found = [node for node in nodes(schema) if fits(node)]
    return chance.choice(found) if found else None


def _records(node: Json) -> bool:
    return bool(node.get("type") == "record")


def _is_field(node: Json) -> bool:
    return "name" in node and node["type"] not in ("record", "enum", "fixed")


def _add_field(schema: Json, chance: random.Random) -> None:
    record = _some(schema, chance, _records) or schema
    field: Json = {"name": f"added{chance.randint(1, 99)}", "type": Schemas(chance, depth_max=1).type(0)}
    if chance.random() < 0.5 and (default := default_of(field["type"], chance)) is not None:
        field["default"] = default[0]
    record["fields"].insert(chance.randint(0, len(record["fields"])), field)


def _remove_field(schema: Json, chance: random.Random) -> None:
    record = _some(schema, chance, lambda node: _records(node) and len(node["fields"]) > 0)
    if record:
        record["fields"].pop(chance.randrange(len(record["fields"])))


def _reorder(schema: Json, chance: random.Random) -> None:
    record = _some(schema, chance, _records)
    if record:
        chance.shuffle(record["fields"])


def _rename_field(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, _is_field)
    if field:
        if chance.random() < 0.6:
            field["aliases"] = [*field.get("aliases", []), field["name"]]
        field["name"] = f"re_{field['name']}"


def _rename_type(schema: Json, chance: random.Random) -> None:
    node = _some(schema, chance, lambda node: node.get("type") in ("enum", "fixed") or _records(node))
    if node:
        if chance.random() < 0.6:
            node["aliases"] = [*node.get("aliases", []), node["name"]]
        node["name"] = f"Re{node['name']}"


def _move_type(schema: Json, chance: random.Random) -> None:
    node = _some(schema, chance, lambda node: node.get("type") in ("enum", "fixed") or _records(node))
    if node:
        node["namespace"] = chance.choice(["elsewhere", "a.b"])


def _change_default(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, _is_field)
    if field and "default" in field:
        del field["default"]
    elif field and (default := default_of(field["type"], chance)) is not None:
        field["default"] = default[0]


def _promote(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, lambda node: isinstance(node.get("type"), str) and node["type"] in PLAIN)
    if field:
        field["type"] = chance.choice(PLAIN)
        field.pop("default", None)


def _symbols(schema: Json, chance: random.Random) -> None:
    node = _some(schema, chance, lambda node: node.get("type") == "enum")
    if node:
        node["symbols"] = chance.sample([*SYMBOLS, "NEW"], chance.randint(1, 5))
        node.pop("default", None)
        if chance.random() < 0.5:
            node["default"] = node["symbols"][0]


def _size(schema: Json, chance: random.Random) -> None:
    node = _some(schema, chance, lambda node: node.get("type") == "fixed")
    if node:
        node["size"] += 1


def _to_union(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, _is_field)
    if field and not isinstance(field["type"], list):
        field["type"] = chance.choice([["null", field["type"]], [field["type"], "null"], ["string", field["type"]]])
        field.pop("default", None)


def _branches(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, lambda node: isinstance(node.get("type"), list) and len(node["type"]) > 0)
    if not field:
        return
    field.pop("default", None)
    what = chance.random()
    if what < 0.4:
        field["type"].pop(chance.randrange(len(field["type"])))
    elif what < 0.6:
        chance.shuffle(field["type"])
    else:
        field["type"].append(chance.choice(PLAIN))


def _from_union(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, lambda node: isinstance(node.get("type"), list) and len(node["type"]) > 0)
    if field:
        field["type"] = chance.choice(field["type"])
        field.pop("default", None)


def _retype(schema: Json, chance: random.Random) -> None:
    field = _some(schema, chance, _is_field)
    if field:
        field["type"] = Schemas(chance, depth_max=1).type(0)
        field.pop("default", None)


def _logical(schema: Json, chance: random.Random) -> None:
    node = _some(schema, chance, lambda node: node.get("logicalType") is not None and node["type"] != "fixed")
    if node:
        node.clear()
        node.update(chance.choice(LOGICAL))


def _second_alias(schema: Json, chance: random.Random) -> None:
    record = _some(schema, chance, lambda node: _records(node) and len(node["fields"]) > 1)
    if record:
        first, second = chance.sample(record["fields"], 2)
        first["aliases"] = [*first.get("aliases", []), second["name"]]


CHANGES: tuple[Callable[[Json, random.Random], None], ...] = (
    _add_field, _add_field, _remove_field, _reorder, _rename_field, _rename_type, _move_type, _change_default,
    _promote, _promote, _symbols, _symbols, _size, _to_union, _branches, _branches, _from_union, _retype, _logical,
    _second_alias,
)  # fmt: skip
