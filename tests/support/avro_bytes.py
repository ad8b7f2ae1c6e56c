"""Avro bytes made by hand, and a plain judge of whether bytes are a value: the specification, a case at a time."""

import random
from typing import Any

Json = Any
DEPTH_MAX = 6


def number(value: int) -> bytes:
    """Return a long as Avro writes it."""
    left = (value << 1) ^ (value >> 63)
    left &= (1 << 64) - 1
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*out, left])


class Values:
    """Random values of a schema, as bytes; lists come in blocks, with and without their size."""

    def __init__(self, schema: Json, chance: random.Random) -> None:
        self._chance = chance
        self._schema = schema
        self._named = named_types(schema)

    def one(self) -> bytes:
        """Return a value.

        Raises:
            RecursionError: the schema has none that ends.
        """
        return self._of(self._schema, 0)

    def _goes_on(self, branch: Json) -> bool:
        named = branch if isinstance(branch, dict) else self._named.get(branch, {})
        return bool(named.get("type") == "record")

    def _of(self, schema: Json, depth: int) -> bytes:
        chance = self._chance
        if isinstance(schema, list):
            which = chance.randrange(len(schema))
            if depth > DEPTH_MAX:
                which = next((at for at, each in enumerate(schema) if not self._goes_on(each)), which)
            return number(which) + self._of(schema[which], depth + 1)
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in self._named and isinstance(schema, str):
            return self._of(self._named[kind], depth + 1)
        if kind == "record":
            return b"".join(self._of(field["type"], depth + 1) for field in schema["fields"])
        if kind in {"array", "map"}:
            return self._blocks(schema, kind, depth)
        return self._simple(schema, kind)

    def _blocks(self, schema: Json, kind: str, depth: int) -> bytes:
        out = b""
        for _ in range(0 if depth > DEPTH_MAX else self._chance.randrange(3)):
            count = self._chance.randint(1, 3)
            items = b""
            for _ in range(count):
                items += (number(1) + b"k" if kind == "map" else b"") + self._of(
                    schema["values" if kind == "map" else "items"], depth + 1
                )
            sized = self._chance.random() < 0.3
            out += (number(-count) + number(len(items)) if sized else number(count)) + items
        return out + self._chance.choice([number(0), b"\x80\0"])  # the shortest zero, or a longer one

    def _simple(self, schema: Json, kind: str) -> bytes:
        chance = self._chance
        sizes = {"null": 0, "float": 4, "double": 8}
        if kind in sizes:
            return chance.randbytes(sizes[kind])
        if kind == "fixed":
            return chance.randbytes(schema["size"])
        if kind == "boolean":
            return bytes([chance.randrange(2)])
        if kind == "enum":
            return number(chance.randrange(len(schema["symbols"])))
        if kind in {"int", "long"}:
            bits = chance.choice([6, 20, 31 if kind == "int" else 63])
            return number(chance.randrange(-(2**bits), 2**bits))
        length = chance.randrange(4)
        return number(length) + b"x" * length


def named_types(schema: Json) -> dict[str, Json]:
    """Return the named types that a parsed schema defines."""
    found: dict[str, Json] = {}
    left = [schema]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            if node["type"] in {"record", "enum", "fixed"}:
                found[node["name"]] = node
            left += [field["type"] for field in node.get("fields", ())]
            left += [node[key] for key in ("items", "values") if key in node]
            if isinstance(node["type"], (dict, list)):
                left.append(node["type"])
    return found


def is_value(schema: Json, data: bytes) -> bool:
    """Say whether ``data`` is one value of a parsed schema, no more and no less."""
    try:
        return _Judge(named_types(schema), data).end(schema, 0) == len(data)
    except (IndexError, ValueError):
        return False


class _Judge:
    def __init__(self, named: dict[str, Json], data: bytes) -> None:
        self._named, self._data = named, data

    def end(self, schema: Json, at: int) -> int:  # noqa: C901 - one case a type
        if isinstance(schema, list):
            which, at = self._number(at, 32)
            return self.end(schema[self._among(which, len(schema))], at)
        kind = schema if isinstance(schema, str) else schema["type"]
        if isinstance(kind, (dict, list)):
            return self.end(kind, at)
        if isinstance(schema, str) and kind in self._named:
            return self.end(self._named[kind], at)
        if kind == "record":
            for field in schema["fields"]:
                at = self.end(field["type"], at)
            return at
        if kind in {"array", "map"}:
            return self._blocks(schema, kind, at)
        if kind in {"int", "long"}:
            return self._number(at, 32 if kind == "int" else 64)[1]
        if kind == "enum":
            which, at = self._number(at, 32)
            self._among(which, len(schema["symbols"]))
            return at
        if kind in {"bytes", "string"}:
            size, at = self._number(at, 64)
            if size < 0 or (kind == "bytes" and isinstance(schema, dict) and size > 100):
                raise ValueError
            return self._upto(at + size)
        if kind == "boolean":
            self._among(self._data[at], 2)
            return at + 1
        size = schema["size"] if kind == "fixed" else {"null": 0, "float": 4, "double": 8}[kind]
        return self._upto(at + size)

    def _blocks(self, schema: Json, kind: str, at: int) -> int:
        while True:
            count, at = self._number(at, 64)
            if count == 0:
                return at
            size = None
            if count < 0:
                size, at = self._number(at, 64)
            begin = at
            for _ in range(abs(count)):
                if kind == "map":
                    at = self.end("string", at)
                at = self.end(schema["values" if kind == "map" else "items"], at)
            if size is not None and at - begin != size:
                raise ValueError

    def _number(self, at: int, bits: int) -> tuple[int, int]:
        value = shift = 0
        for length in range(10 if bits == 64 else 5):
            byte = self._data[at + length]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if value >= 1 << bits:
                    raise ValueError
                return (value >> 1) ^ -(value & 1), at + length + 1
        raise ValueError

    def _among(self, which: int, count: int) -> int:
        if not 0 <= which < count:
            raise ValueError
        return which

    def _upto(self, end: int) -> int:
        if end > len(self._data):
            raise IndexError
        return end
