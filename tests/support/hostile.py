"""A process with little memory and little time that decodes what was made to harm.

Run as ``python hostile.py seed rounds``. It prints how many were refused, and how many decoded; the parent judges the
exit code, which a crash or a limit would make another.
"""

import asyncio
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import fastavro

from gatelog.core.errors import UndecodableRecordError
from gatelog.schemas.codec import Codec
from gatelog.testing.registry import MemoryRegistry
from support.avro_bytes import Values, number
from support.avro_schemas import Schemas

MEMORY_MAX = 192 * 1024 * 1024  # more than what is used when the first case starts
CASE_CPU_MAX_S = 2.0
CPU_MAX_S = 100
_PAYLOAD = 1_000_000

_LIST = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}
_TREE = {"type": "record", "name": "T", "fields": [{"name": "all", "type": {"type": "array", "items": "T"}}]}
_EMPTY = {"type": "record", "name": "E", "fields": []}


def _record(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - Avro's JSON
    return {"type": "record", "name": "R", "fields": [{"name": "a", "type": kind}]}


def _nulls(fields: int, *others: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - Avro's JSON
    return [*others, *({"name": f"n{nth}", "type": "null"} for nth in range(fields))]


def _doubled(levels: int) -> dict[str, Any]:
    """A few bytes a level, each of which has twice as many values as the one below, and takes no bytes."""
    made: dict[str, Any] = {"type": "record", "name": "D0", "fields": []}
    for level in range(1, levels):
        fields = [{"name": "a", "type": made}, {"name": "b", "type": f"D{level - 1}"}]
        made = {"type": "record", "name": f"D{level}", "fields": fields}
    return made


_WIDE = {"type": "record", "name": "W", "fields": _nulls(20_000, {"name": "u", "type": ["null", "int"]})}
_KIDS = {"name": "kids", "type": {"type": "array", "items": "K"}}
_DECIMAL = _record({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2})
TARGETED: list[tuple[str, dict[str, Any], bytes]] = [
    ("a list of a million", _LIST, b"\2" * _PAYLOAD + b"\0"),
    ("a tree of a million", _TREE, b"\2" * _PAYLOAD),
    ("an array of a billion nulls", _record({"type": "array", "items": "null"}), number(10**9) + b"\0"),
    ("blocks of nulls", _record({"type": "array", "items": "null"}), number(5_000) * 100_000 + b"\0"),
    ("an array of empty records", _record({"type": "array", "items": _EMPTY}), number(2**62) + b"\0"),
    (
        "arrays of nulls in an array",
        _record({"type": "array", "items": {"type": "array", "items": "null"}}),
        number(1_000) + (number(10**6) + b"\0") * 1_000 + b"\0",
    ),
    ("a record that doubles with each level", _doubled(30), b""),
    ("the same, deeper than anybody could walk", _doubled(60), b""),
    ("an array of it", _record({"type": "array", "items": _doubled(60)}), number(1) + b"\0"),
    ("a map of it", _record({"type": "map", "values": _doubled(12)}), number(10**4) + b"\0" * 10**4 + b"\0"),
    ("a branch of it", _record({"type": "array", "items": ["null", _doubled(13)]}), number(99) + b"\2" * 99 + b"\0"),
    ("a record of 20,000 nulls", {"type": "record", "name": "N", "fields": _nulls(20_000)}, b""),
    ("records of 20,000 nulls", _record({"type": "array", "items": _WIDE}), number(10**5) + b"\0" * 10**5 + b"\0"),
    (
        "a tree of 500 nulls each",
        {"type": "record", "name": "K", "fields": _nulls(500, _KIDS)},
        number(10**5) + b"\0" * 10**5 + b"\0",
    ),
    ("2^62 integers", _record({"type": "array", "items": "int"}), number(2**62) + b"\2" * 100),
    ("2^40 entries", _record({"type": "map", "values": "int"}), number(2**40) + b"\2a\2"),
    ("the smallest count", _record({"type": "array", "items": "int"}), number(-(2**63)) + number(0) + b"\0"),
    ("a string of 8 EB", _record("string"), number(2**62) + b"x"),
    ("a string of -1 bytes", _record("string"), number(-1) + b"x"),
    ("a block whose size goes back", _record({"type": "array", "items": "int"}), number(-1) + number(-3) + b"\2\0"),
    ("a decimal of a megabyte", _DECIMAL, number(_PAYLOAD) + b"\x7f" * _PAYLOAD),
    ("a number that does not end", _record("long"), b"\xff" * _PAYLOAD),
    ("the branch before the first", _record(["null", "string"]), number(-1) + b"\2a"),
    ("the symbol before the first", _record({"type": "enum", "name": "S", "symbols": ["A", "B"]}), number(-1)),
    ("an int of 40 bits", _record("int"), number(2**40)),
    ("a boolean of 7", _record("boolean"), b"\7"),
    ("bytes left over", _record("int"), b"\2\2"),
    ("nothing", _record("int"), b""),
    ("no UTF-8", _record("string"), b"\4\xff\xfe"),
    ("a year of six digits", _record({"type": "long", "logicalType": "timestamp-micros"}), number(2**62)),
    ("a date of the far future", _record({"type": "int", "logicalType": "date"}), number(2**31 - 1)),
    ("no UUID", _record({"type": "string", "logicalType": "uuid"}), b"\4xy"),
]


def _random(chance: random.Random, rounds: int) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    for _ in range(rounds):
        schema = Schemas(chance).record()
        try:
            valid = Values(fastavro.parse_schema(schema), chance).one() or b"\0"
        except RecursionError:
            valid = b"\2" * 1_000
        for _ in range(8):
            data = bytearray(valid)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(3)] = chance.choice(
                    [b"", b"\xff", chance.randbytes(3), number(2**50)]
                )
                data = data or bytearray(b"\0")
            yield "random", schema, bytes(data)
        yield "noise", schema, chance.randbytes(chance.randrange(200))


async def _codec(schema: dict[str, Any]) -> tuple[Codec, int]:
    registry = MemoryRegistry()
    schema_id = await registry.id_of("R", schema, register=True)
    codec = Codec(registry, register=False)
    await codec.warm({schema_id})
    return codec, schema_id


def main() -> None:
    seed, rounds = int(sys.argv[1]), int(sys.argv[2])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_MAX,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_MAX_S,) * 2)
    refused = decoded = 0
    for name, schema, data in [*TARGETED, *_random(random.Random(seed), rounds)]:
        codec, schema_id = asyncio.run(_codec(schema))
        began = time.process_time()
        try:
            codec.to_dict(schema_id, data)
            decoded += 1
            if name not in {"random", "noise"}:
                raise SystemExit(f"{name}: decoded")
        except UndecodableRecordError as error:
            refused += 1
            if len(str(error)) > 500:
                raise SystemExit(f"{name}: an error of {len(str(error))} characters") from error
        if (took := time.process_time() - began) > CASE_CPU_MAX_S:
            raise SystemExit(f"{name}: took {took:.1f} s")
    print(refused, decoded)


if __name__ == "__main__":
    main()
