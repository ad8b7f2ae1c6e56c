"""Bytes that were damaged or made to harm are one clear error, in bounded time and memory."""

import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
import support.hostile as hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from support.avro_bytes import Values, is_value, number
from support.avro_schemas import Schemas
from support.codecs import codec_for

from gatelog.core.errors import InvalidEventError, UndecodableRecordError
from gatelog.schemas import Event
from gatelog.schemas.codec import Codec
from gatelog.schemas.decoding import DEPTH_MAX, EMPTY_VALUES_MAX, CorruptBytesError, Decoder
from gatelog.testing.registry import MemoryRegistry

REFUSED = (ValueError, ArithmeticError)


def _outcome(decode: Callable[[], object]) -> str:
    try:
        return repr(decode())  # not the value: NaN is not equal to itself
    except REFUSED:
        return "refused"


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_values_are_those_of_fastavro_and_what_is_none_is_refused(seed: int) -> None:
    chance = random.Random(seed)
    schema: Any = fastavro.parse_schema(Schemas(chance).record())
    decoder, values = Decoder(schema), Values(schema, chance)
    for _ in range(3):
        try:
            data = values.one()
        except RecursionError:
            return  # no value of this schema ends
        for each in (data, *(_damaged(data, chance) for _ in range(20))):
            if is_value(schema, each):
                by_fastavro = partial(fastavro.schemaless_reader, BytesIO(each), schema, None)
                assert _outcome(partial(decoder.decode, each)) == _outcome(by_fastavro), (schema, each)
            else:
                with pytest.raises(REFUSED):
                    decoder.decode(each)


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_what_has_the_form_of_a_value_is_never_refused_for_it(seed: int) -> None:
    """Without logical types, whose values may be none though the bytes are as they should be."""
    chance = random.Random(seed)
    schema: Any = fastavro.parse_schema(Schemas(chance, logical=False).record())
    try:
        data = Values(schema, chance).one()
    except RecursionError:
        return  # no value of this schema ends
    assert is_value(schema, data), data
    Decoder(schema).decode(data)


def _damaged(data: bytes, chance: random.Random) -> bytes:
    cut = chance.randrange(len(data) + 1)
    return chance.choice(
        [
            data[:cut],
            data + b"\0",
            data[:cut] + chance.randbytes(1) + data[cut + 1 :],
            data[:cut] + chance.randbytes(2) + data[cut:],
            data[:cut] + number(chance.choice([-1, -(2**63), 2**31, 2**40])) + data[cut + 1 :],
            data[:cut] + data[cut + 1 :],
        ]
    )


@pytest.mark.parametrize(("name", "schema", "data"), hostile.TARGETED, ids=[name for name, _, _ in hostile.TARGETED])
async def test_what_is_hostile_is_refused_with_a_reason(name: str, schema: dict[str, Any], data: bytes) -> None:
    registry = MemoryRegistry()
    schema_id = await registry.id_of("R", schema, register=True)
    codec = Codec(registry, register=False)
    await codec.warm({schema_id})
    with pytest.raises(UndecodableRecordError, match=r"Bytes do not resolve under schema id 1: .|cannot be used: ."):
        codec.to_dict(schema_id, data)


def test_time_and_memory_are_bounded(long: bool) -> None:
    """In a process of its own: what a limit or the operating system ends shows in the exit code."""
    seed, rounds = (random.randrange(2**32), 20_000) if long else (1, 250)
    done = subprocess.run(
        [sys.executable, str(Path(hostile.__file__)), str(seed), str(rounds)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, (seed, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    refused, decoded = map(int, done.stdout.split())
    assert refused > rounds
    assert refused + decoded == len(hostile.TARGETED) + 9 * rounds


class Node(Event):
    children: tuple["Node", ...] = ()


def _deep(depth: int) -> Node:
    node = Node()
    for _ in range(depth):
        node = Node(children=(node,))
    return node


async def test_what_could_not_be_read_back_is_not_written() -> None:
    codec = await codec_for(Node)
    schema_id, data = codec.encode(_deep(DEPTH_MAX), "S-1", 1 << 20)
    await codec.warm({schema_id})
    assert codec.to_model(schema_id, data, Node) == _deep(DEPTH_MAX)
    for depth in (DEPTH_MAX + 1, 5 * DEPTH_MAX):
        with pytest.raises(InvalidEventError, match="nested"):
            codec.encode(_deep(depth), "S-1", 1 << 20)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "bytes", "logicalType": "decimal", "precision": 100_000, "scale": 0}, "too large to compute with"),
        ({"type": "fixed", "name": "F", "size": 10**6, "logicalType": "decimal", "precision": 9}, "too large"),
    ],
)
async def test_a_schema_that_cannot_be_bounded_is_not_used_and_holds_up_nobody(
    schema: dict[str, Any], why: str
) -> None:
    registry = MemoryRegistry()
    record = {"type": "record", "name": "R", "fields": [{"name": "a", "type": schema}]}
    bad, good = [await registry.id_of("R", each, register=True) for each in (record, {**record, "fields": []})]
    codec = Codec(registry, register=False)
    await codec.warm({bad, good})
    assert codec.to_dict(good, b"") == {}
    with pytest.raises(UndecodableRecordError, match=why):
        codec.to_dict(bad, b"\2a")


@pytest.mark.parametrize(
    ("items", "item"),
    [
        (
            {"type": "record", "name": "I", "fields": [{"name": f"f{n}", "type": "int"} for n in range(20)]},
            b"\0" * 20,
        ),
        (
            {"type": "record", "name": "I", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "null"}]},
            b"\0",
        ),
        (["null", {"type": "record", "name": "I", "fields": []}], b"\2"),
    ],
)
def test_what_bytes_pay_for_has_no_bound(items: dict[str, Any] | list[Any], item: bytes) -> None:
    """Many records of many fields, with a null or an empty record here and there, are nobody's attack."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": items}}]}
    decoder = Decoder(fastavro.parse_schema(schema))
    assert not decoder.bounded
    assert len(decoder.decode(number(50_000) + item * 50_000 + b"\0")["a"]) == 50_000


def test_a_wide_record_is_read() -> None:
    fields = [{"name": f"f{n}", "type": ["null", "int"]} for n in range(20_000)]
    decoder = Decoder(fastavro.parse_schema({"type": "record", "name": "R", "fields": fields}))
    assert len(decoder.decode(b"\0" * 20_000)) == 20_000


def test_arrays_of_nothing_have_a_bound_for_the_whole_payload() -> None:
    nothing = {"type": "array", "items": "null"}
    schema = {"type": "record", "name": "R", "fields": [{"name": n, "type": nothing} for n in "ab"]}
    decoder = Decoder(fastavro.parse_schema(schema))
    half = number(EMPTY_VALUES_MAX // 2) + b"\0"
    decoder.decode(half + half)
    with pytest.raises(CorruptBytesError, match="take no bytes"):
        decoder.decode(half + number(EMPTY_VALUES_MAX // 2 + 1) + b"\0")
