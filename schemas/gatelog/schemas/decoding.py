"""Avro bytes to Python values as they were written, in one walk that trusts nothing, in bounded time and memory.

fastavro trusts what it reads. Bytes that were damaged, or made to harm, have it overflow the stack (a recursive
schema), fill the memory from five bytes (an array of a billion nulls), compute for minutes (a decimal of a megabyte),
or return nonsense (negative indexes, bytes that are left over). So all bytes are looked at before fastavro may see
them; and because that is most of the work of decoding, the same walk returns the value. fastavro is left with what it
does alone: to resolve one schema to another.

Values are those of fastavro, by its own table of logical types.
"""

import struct
from collections.abc import Callable
from functools import partial
from math import ceil, log2
from typing import Any, Final, NamedTuple, TypeAlias

from fastavro.read import LOGICAL_READERS
from fastavro.types import Schema as ParsedSchema

DEPTH_MAX: Final = 100  # of values within values
EMPTY_VALUES_MAX: Final = 10_000  # that take no bytes at all, in one payload, beside those that its bytes pay for
_PAID: Final = 4  # by each byte: a dict of five fields takes no more memory than one of a single field
_DECIMAL_BYTES_MAX: Final = 4_096
_INT_BYTES_MAX: Final = 5
_LONG_BYTES_MAX: Final = 10
_MORE: Final = 0x80

Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]  # (bytes, where a value begins) → it, and where it ends


class CorruptBytesError(ValueError):
    """Bytes are not a value of their schema."""


class Decoder:
    """Decodes the payloads of one writer's schema."""

    def __init__(self, schema: ParsedSchema) -> None:
        """Prepare for a schema as fastavro parses it.

        Raises:
            CorruptBytesError: values of the schema cannot be decoded within bounds.
        """
        self._made: dict[str, Read] = {}
        self._making: set[str] = set()
        self._costs: dict[Read, _Cost] = dict(_PRIMITIVE_COSTS)
        self._depth = 0
        self._empty = 0
        self.bounded = False  # whether a legal value can be beyond the bounds
        self._read = self._of(schema, 0)
        self._left = EMPTY_VALUES_MAX - max(0, self._costs[self._read].empty)
        self._spend(0, 0)

    def decode(self, data: bytes) -> Any:  # noqa: ANN401 - whatever the schema says
        """Return the value that ``data`` is.

        Raises:
            CorruptBytesError: it is not exactly one value; the message says why and where.
            ValueError: a text is not UTF-8, or a value is none of its logical type.
            ArithmeticError: a logical type has no such value.
        """
        self._depth = self._empty = 0
        try:
            value, end = self._read(data, 0)
        except (IndexError, struct.error):
            raise CorruptBytesError(f"they end after {len(data):,} bytes, within a value") from None
        except RecursionError:
            raise CorruptBytesError("they are nested too deep") from None
        if end != len(data):
            what = "they end within a value" if end > len(data) else f"{len(data) - end:,} bytes are left over"
            raise CorruptBytesError(f"{what} ({len(data):,} bytes in all)")
        return value

    def _of(self, schema: Any, depth: int) -> Read:  # noqa: ANN401 - Avro's JSON
        """Return how a value of a type is read, and know its cost; without one of its own it is that of a byte."""
        read = self._made_of(schema, depth)
        self._costs.setdefault(read, _BYTE)
        return read

    def _made_of(self, schema: Any, depth: int) -> Read:  # noqa: ANN401 - Avro's JSON
        if depth > DEPTH_MAX:
            raise CorruptBytesError(f"the schema is nested more than {DEPTH_MAX} deep")
        if isinstance(schema, list):
            branches = [self._of(branch, depth + 1) for branch in schema]
            return self._costing(_union(branches), _cost_of_one([self._costs[branch] for branch in branches]))
        if isinstance(schema, str):
            return _PRIMITIVE.get(schema) or self._reference(schema)
        kind = schema["type"]
        if isinstance(kind, (list, dict)):
            return self._of(kind, depth + 1)
        if kind in {"record", "error"}:
            return self._record(schema, depth)
        if kind == "enum":
            return self._named(schema, _enum(schema["symbols"]))
        if kind == "fixed":
            read = self._costing(_logical(schema, _fixed(schema)), _cost_of_bytes(schema["size"]))
            return self._named(schema, read)
        if kind in {"array", "map"}:
            return self._blocks(schema, depth)
        if kind == "bytes" and schema.get("logicalType") == "decimal":
            return _logical(schema, _decimal(schema))
        return _logical(schema, _PRIMITIVE.get(kind) or self._reference(kind))

    def _costing(self, read: Read, cost: "_Cost") -> Read:
        self._costs[read] = cost
        return read

    def _named(self, schema: dict[str, Any], read: Read) -> Read:
        self._made[schema["name"]] = read
        return read

    def _record(self, schema: dict[str, Any], depth: int) -> Read:
        name = schema["name"]
        self._making.add(name)
        fields = tuple((field["name"], self._of(field["type"], depth + 1)) for field in schema["fields"])
        self._making.discard(name)

        def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
            found = {}
            for name, each in fields:
                found[name], at = each(data, at)
            return found, at

        self._costs[read] = _cost_of_all([self._costs[each] for _, each in fields])
        return self._named(schema, read)

    def _reference(self, name: str) -> Read:
        if name in self._made:
            return self._made[name]
        if name not in self._making:
            raise CorruptBytesError(f"the schema names {name!r} and does not define it")
        self.bounded = True

        def read(data: bytes, at: int) -> tuple[Any, int]:
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise CorruptBytesError(f"{name} is nested more than {DEPTH_MAX} deep, at byte {at:,}")
            made = self._made[name]
            if (empty := self._costs[made].empty) > 0:  # nobody knew it when this was made
                self._spend(empty, at)
            value, at = made(data, at)
            self._depth -= 1
            return value, at

        return read

    def _blocks(self, schema: dict[str, Any], depth: int) -> Read:
        """Arrays and maps: blocks of items, with their count; if it is negative, with their size in bytes too."""
        is_array = schema["type"] == "array"
        item = self._of(schema["items" if is_array else "values"], depth + 1)
        cost = self._costs[item] if is_array else _cost_of_all([_BYTE, self._costs[item]])
        takes_bytes, empty = cost.bytes > 0, max(0, cost.empty)
        self.bounded = self.bounded or empty > 0
        items = _items if is_array else _entries

        def read(data: bytes, at: int) -> tuple[Any, int]:
            found: Any = [] if is_array else {}
            while True:
                count, at = _long(data, at)
                if not count:
                    return found, at
                size = None
                if count < 0:
                    count = -count
                    size, at = _long(data, at)
                if takes_bytes and count > len(data) - at:
                    raise CorruptBytesError(
                        f"{count:,} items are announced and {len(data) - at:,} bytes are left, at byte {at:,}"
                    )
                if empty:
                    self._spend(count * empty, at)
                begin = at
                at = items(found, item, count, data, at)
                if size is not None and at - begin != size:
                    raise CorruptBytesError(f"a block of {size:,} bytes has {at - begin:,}, at byte {begin:,}")

        return read

    def _spend(self, empty: int, at: int) -> None:
        self._empty += empty
        if self._empty > self._left:
            raise CorruptBytesError(f"over {EMPTY_VALUES_MAX:,} values take no bytes, at byte {at:,}")


class _Cost(NamedTuple):
    """What a value of a type takes at least, and how many values it may hold that these bytes do not pay for."""

    bytes: int
    empty: int


def _cost_of_bytes(size: int) -> _Cost:
    return _Cost(size, -_PAID * size if size else 1)


def _cost_of_all(costs: list[_Cost]) -> _Cost:
    """Of a record; one that has no fields is a value, too."""
    return _Cost(sum(cost.bytes for cost in costs), sum(cost.empty for cost in costs) if costs else 1)


def _cost_of_one(costs: list[_Cost]) -> _Cost:
    """Of a union, which takes a byte of its own."""
    return _Cost(1 + min(cost.bytes for cost in costs), max(cost.empty for cost in costs) - _PAID)


_BYTE: Final = _cost_of_bytes(1)


def _items(found: list[Any], item: Read, count: int, data: bytes, at: int) -> int:
    end = len(data)
    for _ in range(count):
        value, at = item(data, at)
        if at > end:
            raise IndexError
        found.append(value)
    return at


def _entries(found: dict[str, Any], value: Read, count: int, data: bytes, at: int) -> int:
    end = len(data)
    for _ in range(count):
        key, at = _string(data, at)
        found[key], at = value(data, at)
        if at > end:
            raise IndexError
    return at


def _number(data: bytes, at: int, first: int, bytes_max: int) -> tuple[int, int]:
    """Return a number of several bytes, as it stands there (zigzag), and where it ends."""
    value, begin = first & 0x7F, at - 1
    for shift in range(7, 7 * bytes_max, 7):
        byte = data[at]
        at += 1
        if byte < _MORE:
            value |= byte << shift
            break
        value |= (byte & 0x7F) << shift
    else:
        raise CorruptBytesError(f"a number has over {bytes_max} bytes, at byte {begin:,}")
    if value >> (32 if bytes_max == _INT_BYTES_MAX else 64):
        raise CorruptBytesError(f"a number is out of range, at byte {begin:,}")
    return value, at


# The usual value of each kind is read without another call, which would cost as much: hence their likeness.


def _int(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value >= _MORE:
        value, at = _number(data, at, value, _INT_BYTES_MAX)
    return (value >> 1) ^ -(value & 1), at


def _long(data: bytes, at: int) -> tuple[int, int]:
    value = data[at]
    at += 1
    if value >= _MORE:
        value, at = _number(data, at, value, _LONG_BYTES_MAX)
    return (value >> 1) ^ -(value & 1), at


def _long_length(data: bytes, at: int) -> tuple[int, int]:
    """Return a length of several bytes that begins at ``at``, as it stands there, and where it ends."""
    second = data[at + 1]
    if second < _MORE:  # most have two
        return data[at] & 0x7F | second << 7, at + 2
    return _number(data, at + 1, data[at], _LONG_BYTES_MAX)


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    value, begin = data[at], at + 1
    if value >= _MORE:
        value, begin = _long_length(data, at)
    if value & 1:
        raise CorruptBytesError(f"a length is negative, at byte {at:,}")
    end = begin + (value >> 1)
    return data[begin:end], end


def _string(data: bytes, at: int) -> tuple[str, int]:
    value, begin = data[at], at + 1
    if value >= _MORE:
        value, begin = _long_length(data, at)
    if value & 1:
        raise CorruptBytesError(f"a length is negative, at byte {at:,}")
    end = begin + (value >> 1)
    return data[begin:end].decode(), end


def _boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] > 1:
        raise CorruptBytesError(f"a boolean is {data[at]}, at byte {at:,}")
    return data[at] == 1, at + 1


def _null(_data: bytes, at: int) -> tuple[None, int]:
    return None, at


def _real(unpack: Callable[[bytes, int], tuple[Any, ...]], size: int, data: bytes, at: int) -> tuple[float, int]:
    return unpack(data, at)[0], at + size


def _choice(options: int, what: str, data: bytes, at: int) -> tuple[int, int]:
    """Return one of the numbers from 0 to below ``options``, and where it ends."""
    which, end = _int(data, at)
    if not 0 <= which < options:
        raise CorruptBytesError(f"{what} of {options} has no number {which}, at byte {at:,}")
    return which, end


def _enum(symbols: list[str]) -> Read:
    def read(data: bytes, at: int) -> tuple[str, int]:
        which, at = _choice(len(symbols), "an enum", data, at)
        return symbols[which], at

    return read


def _union(branches: list[Read]) -> Read:
    by_byte = {2 * which: branch for which, branch in enumerate(branches[: _MORE // 2])}

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if (branch := by_byte.get(data[at])) is not None:
            return branch(data, at + 1)
        which, at = _choice(len(branches), "a union", data, at)
        return branches[which](data, at)

    return read


def _fixed(schema: dict[str, Any]) -> Read:
    size = schema["size"]
    if schema.get("logicalType") == "decimal" and size > _DECIMAL_BYTES_MAX:
        raise CorruptBytesError(f"a decimal of {size:,} bytes is too large to compute with")
    return lambda data, at: (data[at : at + size], at + size)


def _decimal(schema: dict[str, Any]) -> Read:
    bytes_max = ceil((schema["precision"] * log2(10) + 1) / 8)
    if bytes_max > _DECIMAL_BYTES_MAX:
        raise CorruptBytesError(f"a decimal of {schema['precision']:,} digits is too large to compute with")

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        value, end = _bytes(data, at)
        if len(value) > bytes_max + _LONG_BYTES_MAX:
            raise CorruptBytesError(f"a decimal has over {bytes_max} bytes, at byte {at:,}")
        return value, end

    return read


def _logical(schema: dict[str, Any], read: Read) -> Read:
    convert = LOGICAL_READERS.get(f"{schema['type']}-{schema.get('logicalType')}")
    if convert is None:
        return read

    def converted(data: bytes, at: int) -> tuple[Any, int]:
        value, at = read(data, at)
        if at > len(data):
            raise IndexError
        return convert(value, schema, None), at

    return converted


_PRIMITIVE: Final[dict[str, Read]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "float": partial(_real, struct.Struct("<f").unpack_from, 4),
    "double": partial(_real, struct.Struct("<d").unpack_from, 8),
    "bytes": _bytes,
    "string": _string,
}
_PRIMITIVE_COSTS: Final = {
    _null: _cost_of_bytes(0),
    _PRIMITIVE["float"]: _cost_of_bytes(4),
    _PRIMITIVE["double"]: _cost_of_bytes(8),
}
