"""What is written here, Java reads and writes again; what Java writes is read here."""

import copy
import random
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastavro.schema import SchemaParseException, parse_schema, to_parsing_canonical_form
from pydantic import AwareDatetime, Field, NaiveDatetime
from support.avro_judge import AvroJudge
from support.avro_schemas import Schemas, changed
from support.avro_values import value_for

from gatelog.core.errors import InvalidEventError, SchemaError
from gatelog.schemas import Event
from gatelog.schemas.avro_types import (
    Duration,
    Fixed,
    Float32,
    Int32,
    LocalTimestampMillis,
    TimeMillis,
    TimestampMillis,
)
from gatelog.schemas.codec import Codec
from gatelog.schemas.compatibility import mismatches
from gatelog.schemas.from_avro import model_from
from gatelog.schemas.lint import LintRule, lint
from gatelog.schemas.parsing import parse
from gatelog.testing.registry import MemoryRegistry

SCHEMAS, SCHEMAS_LONG, VALUES = 60, 2000, 3


class EveryLogicalType(Event):
    """Values that Java is asked to show."""

    money: Decimal = Field(max_digits=9, decimal_places=2)
    packed: Annotated[Decimal, Field(max_digits=9, decimal_places=3), Fixed("Packed", 6)]
    uid: UUID
    day: date
    clock: time
    clock_millis: TimeMillis
    at: AwareDatetime
    at_millis: TimestampMillis
    local: NaiveDatetime
    local_millis: LocalTimestampMillis
    small: Int32
    single: Float32


def has_text_or_bytes(schema: dict[str, Any]) -> bool:
    """fastavro reads text as bytes where a union has both; `schema lint` says so."""
    return any(each.rule is LintRule.TEXT_OR_BYTES for each in lint("Root", schema))


async def codec_of(model: type[Event]) -> Codec:
    codec = Codec(MemoryRegistry(), register=True)
    await codec.learn(model)
    await codec.warm({1})
    return codec


async def test_java_reads_what_is_written_here_and_the_other_way_round(
    judge: AvroJudge, chance: random.Random, long: bool
) -> None:
    for _ in range(SCHEMAS_LONG if long else SCHEMAS):
        schema = Schemas(chance).record(namespace=chance.choice([None, "shop.events"]))
        assert to_parsing_canonical_form(schema) == judge.ask("parse", schema=schema)["canonical"]
        model, tree = model_from(schema), parse(schema)
        codec = await codec_of(model)
        events = [model.model_validate(value_for(tree, chance)) for _ in range(VALUES)]
        try:
            written = [codec.encode(event, "S-1", 1 << 24)[1] for event in events]
        except InvalidEventError as error:  # a union of two decimals: the value is refused if it is of the second
            if "Scale provided" in str(error):
                continue
            raise
        again = judge.ask("recode", writer=schema, data=[data.hex() for data in written])["data"]
        read = [codec.to_model(1, bytes.fromhex(data), model) for data in again]
        assert read == events, (schema, [(a, b) for a, b in zip(read, events, strict=True) if a != b][:1])


async def test_random_bytes_of_java_are_read_here(judge: AvroJudge, chance: random.Random, long: bool) -> None:
    """Without logical types: Java makes up the numbers below them, and not every one is a date."""
    for _ in range(SCHEMAS_LONG if long else SCHEMAS):
        schema = Schemas(chance, logical=False, depth_max=2).record()
        codec = await codec_of(model := model_from(schema))
        made = judge.ask("random", schema=schema, count=VALUES, seed=chance.randrange(2**31))["data"]
        events = [codec.to_model(1, bytes.fromhex(data), model) for data in made]
        written = [codec.encode(event, "S-1", 1 << 24)[1].hex() for event in events]
        again = judge.ask("recode", writer=schema, data=written)["data"]
        assert [codec.to_model(1, bytes.fromhex(data), model) for data in again] == events, schema


async def test_java_sees_the_same_moments_and_amounts(judge: AvroJudge) -> None:
    event = EveryLogicalType(
        money=Decimal("-12.50"),
        packed=Decimal("1.005"),
        uid=UUID("6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        day=date(2024, 2, 29),
        clock=time(1, 2, 3, 4),
        clock_millis=time(1, 2, 3, 4000),
        at=datetime(2024, 2, 29, 12, 0, 0, 1, UTC),
        at_millis=datetime(1969, 12, 31, 23, 59, 59, 999000, UTC),
        local=datetime(2024, 2, 29, 12, 0, 0, 1),  # noqa: DTZ001 - a local time
        local_millis=datetime(2024, 2, 29, 12, 0, 0, 1000),  # noqa: DTZ001 - a local time
        small=-(2**31),
        single=0.1,
    )
    codec = await codec_of(EveryLogicalType)
    data = codec.encode(event, "S-1", 1 << 20)[1]
    shown: dict[str, Any] = judge.ask("show", schema=EveryLogicalType.avro_schema(), data=data.hex())["fields"]
    assert shown == {
        "money": "-12.50",
        "packed": "1.005",
        "uid": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "day": "2024-02-29",
        "clock": "01:02:03.000004",
        "clock_millis": "01:02:03.004",
        "at": "2024-02-29T12:00:00.000001Z",
        "at_millis": "1969-12-31T23:59:59.999Z",
        "local": "2024-02-29T12:00:00.000001",
        "local_millis": "2024-02-29T12:00:00.001",
        "small": "-2147483648",
        "single": "0.1",
    }


async def test_a_duration_is_three_little_endian_numbers(judge: AvroJudge) -> None:
    class Lasting(Event):
        span: Duration

    event = Lasting(span=Duration(months=1, days=2, millis=3))
    codec = await codec_of(Lasting)
    data = codec.encode(event, "S-1", 100)[1]
    assert data == bytes.fromhex("010000000200000003000000")
    assert judge.ask("recode", writer=Lasting.avro_schema(), data=[data.hex()])["data"] == [data.hex()]
    assert codec.to_model(1, data, Lasting) == event


async def test_old_events_are_read_as_java_reads_them(judge: AvroJudge, chance: random.Random, long: bool) -> None:
    """Whenever both verdicts are 'compatible', the values that were resolved here are those that Java resolves."""
    compared = 0
    while compared < (SCHEMAS_LONG if long else SCHEMAS):
        old = Schemas(chance).record()
        new = changed(old, chance, 2)
        try:
            writer, reader = parse(old), parse(new)
            model = model_from(new)
            parse_schema(copy.deepcopy(new))
        except (SchemaError, SchemaParseException):  # fastavro takes some odd logical types less far than Java
            continue
        # Java's checker does not look at namespaces; its reader takes aliases only where full names agree.
        has_moved = any(name in str(new) for name in ("'elsewhere'", "'a.b'"))
        if old == new or mismatches(reader, writer) or has_text_or_bytes(new) or has_moved:
            continue
        registry = MemoryRegistry()
        codec = Codec(registry, register=True)
        await codec.learn(was := model_from(old))
        await codec.learn(model)
        await codec.warm({1, 2})
        events = [was.model_validate(value_for(writer, chance)) for _ in range(VALUES)]
        written = [codec.encode(event, "S-1", 1 << 24)[1] for event in events]
        mine = [codec.to_model(1, data, model) for data in written]
        resolved = judge.ask("recode", writer=old, reader=new, data=[data.hex() for data in written])["data"]
        expected = [codec.to_model(2, bytes.fromhex(data), model) for data in resolved]
        assert mine == expected, (old, new)
        compared += 1
