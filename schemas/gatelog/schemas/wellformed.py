"""Whether bytes are what an Avro schema says: checked before fastavro decodes them, in bounded time and memory.

fastavro trusts what it reads. Bytes that were damaged, or made to harm, have it overflow the stack (a recursive
schema), fill the memory from five bytes (an array of a billion nulls), compute for minutes (a decimal of a megabyte),
or return nonsense (negative indexes, bytes that are left over). A walk over the bytes that builds nothing costs a
fraction of decoding. After it, decoding takes memory in proportion to the bytes.
"""

from collections.abc import Callable
from math import ceil, log2
from typing import Any, Final, TypeAlias

from fastavro.types import Schema as ParsedSchema

DEPTH_MAX: Final = 100  # of values within values
EMPTY_ITEMS_MAX: Final = 10_000  # of arrays whose items take no bytes at all, in one payload
_DECIMAL_BYTES_MAX: Final = 4_096
_INT_BYTES_MAX: Final = 5
_LONG_BYTES_MAX: Final = 10
_MORE: Final = 0x80

Walk: TypeAlias = Callable[[bytes, int], int]  # (bytes, where a value begins) → where it ends
_FIXED_WIDTH: Final = {"null": 0, "float": 4, "double": 8}


class CorruptBytesError(ValueError):
    """Bytes are not a value of their schema."""


class Wellformed:
    """Checks the payloads of one writer's schema."""

    def __init__(self, schema: ParsedSchema) -> None:
        """Prepare for a schema as fastavro parses it.

        Raises:
            CorruptBytesError: values of the schema cannot be decoded within bounds.
        """
        self._made: dict[str, Walk] = {}
        self._making: set[str] = set()
        self._depth = 0
        self._empty_items = 0
        self.bounded = False  # whether a legal value can be beyond the bounds
        self._walk = self._of(schema, 0)

    def check(self, data: bytes) -> None:
        """Return if ``data`` is exactly one value.

        Raises:
            CorruptBytesError: it is not; the message says why and where.
        """
        self._depth = self._empty_items = 0
        try:
            end = self._walk(data, 0)
        except IndexError:
            raise CorruptBytesError(f"they end after {len(data):,} bytes, within a value") from None
        except RecursionError:
            raise CorruptBytesError("they are nested too deep") from None
        if end != len(data):
            what = "they end within a value" if end > len(data) else f"{len(data) - end:,} bytes are left over"
            raise CorruptBytesError(f"{what} ({len(data):,} bytes in all)")

    def _of(self, schema: Any, depth: int) -> Walk:  # noqa: ANN401 - Avro's JSON
        if depth > DEPTH_MAX:
            raise CorruptBytesError(f"the schema is nested more than {DEPTH_MAX} deep")
        if isinstance(schema, list):
            return _union([self._of(branch, depth + 1) for branch in schema])
        if isinstance(schema, str):
            return _PRIMITIVE.get(schema) or self._reference(schema)
        kind = schema["type"]
        if isinstance(kind, (list, dict)):
            return self._of(kind, depth + 1)
        if kind in {"record", "error"}:
            return self._record(schema, depth)
        if kind == "enum":
            return self._named(schema, _index(len(schema["symbols"]), "an enum"))
        if kind == "fixed":
            return self._named(schema, self._fixed(schema))
        if kind in {"array", "map"}:
            return self._blocks(schema, depth)
        if kind == "bytes" and schema.get("logicalType") == "decimal":
            return self._decimal(schema)
        return _PRIMITIVE.get(kind) or self._reference(kind)

    def _named(self, schema: dict[str, Any], walk: Walk) -> Walk:
        self._made[schema["name"]] = walk
        return walk

    def _record(self, schema: dict[str, Any], depth: int) -> Walk:
        name = schema["name"]
        self._making.add(name)
        walks = tuple(self._of(field["type"], depth + 1) for field in schema["fields"])
        self._making.discard(name)

        def walk(data: bytes, at: int) -> int:
            for each in walks:
                at = each(data, at)
            return at

        return self._named(schema, walk)

    def _reference(self, name: str) -> Walk:
        if name in self._made:
            return self._made[name]
        if name not in self._making:
            raise CorruptBytesError(f"the schema names {name!r} and does not define it")
        self.bounded = True

        def walk(data: bytes, at: int) -> int:
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise CorruptBytesError(f"{name} is nested more than {DEPTH_MAX} deep, at byte {at:,}")
            at = self._made[name](data, at)
            self._depth -= 1
            return at

        return walk

    def _fixed(self, schema: dict[str, Any]) -> Walk:
        size = schema["size"]
        if schema.get("logicalType") == "decimal" and size > _DECIMAL_BYTES_MAX:
            raise CorruptBytesError(f"a decimal of {size:,} bytes is too large to compute with")
        return _width(size)

    def _decimal(self, schema: dict[str, Any]) -> Walk:
        bytes_max = ceil((schema["precision"] * log2(10) + 1) / 8)
        if bytes_max > _DECIMAL_BYTES_MAX:
            raise CorruptBytesError(f"a decimal of {schema['precision']:,} digits is too large to compute with")

        def walk(data: bytes, at: int) -> int:
            end = _bytes(data, at)
            if end - at > bytes_max + _LONG_BYTES_MAX:
                raise CorruptBytesError(f"a decimal has over {bytes_max} bytes, at byte {at:,}")
            return end

        return walk

    def _blocks(self, schema: dict[str, Any], depth: int) -> Walk:
        array = schema["type"] == "array"
        item = self._of(schema["items" if array else "values"], depth + 1)
        takes_bytes = not array or not _takes_nothing(item)
        self.bounded = self.bounded or not takes_bytes

        def walk(data: bytes, at: int) -> int:
            end = len(data)
            while True:
                count, at = _long(data, at)
                if not count:
                    return at
                size = None
                if count < 0:
                    count = -count
                    size, at = _long(data, at)
                self._fits(count, end - at, at, takes_bytes)
                begin = at
                for _ in range(count):
                    at = item(data, at if array else _bytes(data, at))
                    if at > end:
                        raise IndexError
                if size is not None and at - begin != size:
                    raise CorruptBytesError(f"a block of {size:,} bytes has {at - begin:,}, at byte {begin:,}")

        return walk

    def _fits(self, count: int, left: int, at: int, takes_bytes: bool) -> None:
        if takes_bytes:
            if count > left:
                raise CorruptBytesError(f"{count:,} items are announced and {left:,} bytes are left, at byte {at:,}")
            return
        self._empty_items += count
        if self._empty_items > EMPTY_ITEMS_MAX:
            raise CorruptBytesError(f"over {EMPTY_ITEMS_MAX:,} items take no bytes, at byte {at:,}")


def _takes_nothing(walk: Walk) -> bool:
    """Say whether values of a type take no bytes: then it ends where it begins, whatever stands there."""
    try:
        return walk(b"", 0) == 0
    except (IndexError, ValueError, KeyError):
        return False


def _number(data: bytes, at: int, first: int, bytes_max: int) -> tuple[int, int]:
    """Return a number of several bytes, as it stands there (zigzag), and where it ends."""
    value, shift, begin = first & 0x7F, 7, at - 1
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _MORE:
            break
        shift += 7
        if at - begin >= bytes_max:
            raise CorruptBytesError(f"a number has over {bytes_max} bytes, at byte {begin:,}")
    if value >> (32 if bytes_max == _INT_BYTES_MAX else 64):
        raise CorruptBytesError(f"a number is out of range, at byte {begin:,}")
    return value, at


def _long(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value >= _MORE:
        value, at = _number(data, at, value, _LONG_BYTES_MAX)
    return (value >> 1) ^ -(value & 1), at


def _walk_int(data: bytes, at: int) -> int:
    value = data[at]
    return at + 1 if value < _MORE else _number(data, at + 1, value, _INT_BYTES_MAX)[1]


def _walk_long(data: bytes, at: int) -> int:
    value = data[at]
    return at + 1 if value < _MORE else _number(data, at + 1, value, _LONG_BYTES_MAX)[1]


def _bytes(data: bytes, at: int) -> int:
    value = data[at]
    at += 1
    if value >= _MORE:
        second = data[at]
        if second < _MORE:  # most lengths have at most two bytes: no call for them
            value, at = value & 0x7F | second << 7, at + 1
        else:
            value, at = _number(data, at, value, _LONG_BYTES_MAX)
    if value & 1:
        raise CorruptBytesError(f"a length is negative, at byte {at:,}")
    return at + (value >> 1)


def _boolean(data: bytes, at: int) -> int:
    if data[at] > 1:
        raise CorruptBytesError(f"a boolean is {data[at]}, at byte {at:,}")
    return at + 1


def _index(count: int, what: str) -> Walk:
    def walk(data: bytes, at: int) -> int:
        value = data[at]
        end = at + 1
        if value >= _MORE:
            value, end = _number(data, end, value, _INT_BYTES_MAX)
        if value & 1 or value >> 1 >= count:
            raise CorruptBytesError(f"{what} of {count} has no number {(value >> 1) ^ -(value & 1)}, at byte {at:,}")
        return end

    return walk


def _union(branches: list[Walk]) -> Walk:
    index = _index(len(branches), "a union")

    def walk(data: bytes, at: int) -> int:
        end = index(data, at)
        return branches[_long(data, at)[0]](data, end)

    return walk


def _width(size: int) -> Walk:
    return lambda _data, at: at + size


_PRIMITIVE: Final[dict[str, Walk]] = {
    **{name: _width(size) for name, size in _FIXED_WIDTH.items()},
    "boolean": _boolean,
    "int": _walk_int,
    "long": _walk_long,
    "bytes": _bytes,
    "string": _bytes,
}
