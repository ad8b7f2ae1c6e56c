"""What Avro says and Python's types do not: widths, milliseconds, fixed, durations, names, branches of unions."""

import copy
import pickle
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Union
from uuid import UUID

import pytest
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NaiveDatetime,
    TypeAdapter,
    ValidationError,
    create_model,
)
from support.codecs import codec_for

from gatelog.core.errors import SchemaError
from gatelog.schemas import Event
from gatelog.schemas.avro import schema_of
from gatelog.schemas.avro_types import (
    Aliases,
    Duration,
    Fixed,
    Float32,
    Int32,
    LocalTimestampMillis,
    TimeMillis,
    TimestampMillis,
    named,
)
from gatelog.schemas.codec import Codec
from gatelog.schemas.definitions import same
from gatelog.schemas.from_avro import model_from
from gatelog.schemas.generate import module_of, source_of
from gatelog.testing.registry import MemoryRegistry

MICROSECOND = datetime(2024, 1, 1, 0, 0, 0, 1, UTC)


class Colour(StrEnum):
    RED = "RED"
    BLUE = "blue"


class Gift(BaseModel):
    sku: str


class Line(BaseModel):
    sku: str


class Chosen(Event):
    """Each union holds a value that fastavro would write as another branch."""

    day_or_moment: date | AwareDatetime
    real_or_number: float | int
    uid_or_colour: UUID | Colour
    list_or_bytes: list[int] | bytes
    gift_or_line: Gift | Line
    nested: list[dict[str, Gift | Line | None]]
    colour_or_text: Colour | str
    span_or_bytes: Duration | bytes


async def test_a_union_comes_back_as_what_it_was() -> None:
    event = Chosen(
        day_or_moment=MICROSECOND,
        real_or_number=2**60 + 1,
        uid_or_colour=Colour.BLUE,
        list_or_bytes=b"abc",
        gift_or_line=Line(sku="x"),
        nested=[{"a": Line(sku="y"), "b": None}, {"c": Gift(sku="z")}],
        colour_or_text=Colour.RED,
        span_or_bytes=Duration(days=1),
    )
    codec = await codec_for(Chosen)
    schema_id, data = codec.encode(event, "S-1", 1 << 20)
    await codec.warm({schema_id})
    found = codec.to_model(schema_id, data, Chosen)
    assert found == event
    assert isinstance(found, Chosen)
    assert type(found.real_or_number) is int
    assert [type(found.colour_or_text), type(found.span_or_bytes)] == [Colour, Duration]
    assert type(found.gift_or_line) is Line


class Before(Event, event_type="Grown"):
    kept: str


class Grown(Event):
    kept: str
    raw: bytes = b"\xff\x00"
    money: Decimal = Field(Decimal("-9.90"), max_digits=6, decimal_places=2)
    uid: UUID = UUID(int=7)
    day: date = date(2024, 2, 29)
    clock: time = time(1, 2, 3, 4)
    millis: TimeMillis = time(1, 2, 3, 4000)
    at: AwareDatetime = MICROSECOND
    at_millis: TimestampMillis = datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)
    local: NaiveDatetime = datetime(2024, 1, 1)  # noqa: DTZ001 - a local time
    local_millis: LocalTimestampMillis = datetime(1969, 1, 1)  # noqa: DTZ001 - a local time
    packed: Annotated[Decimal, Field(max_digits=6, decimal_places=2), Fixed("Packed", 4)] = Decimal("1.05")
    span: Duration = Duration(1, 2, 3)
    colour: Colour = Colour.BLUE
    line: Line = Line(sku="x")
    lines: list[Line] = Field(default_factory=lambda: [Line(sku="y")])
    either: Colour | date | None = date(1969, 1, 1)


async def test_defaults_of_every_type_stand_in_for_what_old_events_lack() -> None:
    codec = Codec(MemoryRegistry(), register=True)
    await codec.learn(Before)
    await codec.learn(Grown)
    schema_id, data = codec.encode(Before(kept="x"), "S-1", 100)
    await codec.warm({schema_id})
    assert codec.to_model(schema_id, data, Grown) == Grown(kept="x")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Int32, 2**31),
        (Float32, 1e39),
        (TimestampMillis, MICROSECOND),
        (LocalTimestampMillis, MICROSECOND.replace(tzinfo=None)),
        (TimestampMillis, datetime(2024, 1, 1)),  # noqa: DTZ001 - what is refused
        (TimeMillis, time(0, 0, 0, 1)),
        (Annotated[bytes, Fixed("Digest", 4)], b"12345"),
        (Duration, "P"),
        (Duration, "1 day"),
        (Duration, b"short"),
    ],
)
def test_what_the_schema_cannot_hold_is_refused_and_not_cut(annotation: Any, value: object) -> None:  # noqa: ANN401
    with pytest.raises(ValidationError):
        TypeAdapter(annotation).validate_python(value)


def test_a_32_bit_float_is_what_a_reader_will_see() -> None:
    assert TypeAdapter(Float32).validate_python(0.1) == pytest.approx(0.1, rel=1e-7)
    assert TypeAdapter(Float32).validate_python(0.1) != 0.1


def test_durations_go_through_json_copies_and_pickles() -> None:
    class Lasting(Event):
        span: Duration

    event = Lasting(span=Duration(months=1, days=2, millis=3500))
    assert event.model_dump_json() == '{"span":"P1M2DT3.500S"}'
    assert Lasting.model_validate_json(event.model_dump_json()) == event
    assert Lasting.model_validate({"span": "P3D"}).span == Duration(days=3)
    for again in (copy.copy(event.span), copy.deepcopy(event.span), pickle.loads(pickle.dumps(event.span))):
        assert (type(again), again.months, again.days, again.millis) == (Duration, 1, 2, 3500)
    with pytest.raises(ValueError, match="0 to"):
        Duration(days=-1)


def test_names_aliases_and_docs_are_in_the_schema() -> None:
    @named("other.State", aliases=["Status"], doc="Where it is.", default="NEW")
    class State(StrEnum):
        NEW = "NEW"
        OLD = "OLD"

    @named("shop.Item", aliases=["Thing"])
    class Item(BaseModel):
        """What is bought."""

        sku: Annotated[str, Aliases("code", "ean")]
        next: "Item | None" = None
        state: State

    @named(aliases=["OrderMade"])
    class Ordered(Event, event_type="shop.Ordered"):
        model_config = ConfigDict(populate_by_name=True)

        item: Item
        state: State | None = None
        items: list[Item]
        class_: str = Field(alias="class")

    assert Ordered.avro_schema() == {
        "type": "record", "name": "shop.Ordered", "aliases": ["OrderMade"],
        "fields": [
            {"name": "item", "type": {
                "type": "record", "name": "shop.Item", "doc": "What is bought.", "aliases": ["Thing"],
                "fields": [
                    {"name": "sku", "type": "string", "aliases": ["code", "ean"]},
                    {"name": "next", "type": ["null", "Item"], "default": None},
                    {"name": "state", "type": {
                        "type": "enum", "name": "other.State", "doc": "Where it is.", "aliases": ["Status"],
                        "symbols": ["NEW", "OLD"], "default": "NEW",
                    }},
                ],
            }},
            {"name": "state", "type": ["null", "other.State"], "default": None},
            {"name": "items", "type": {"type": "array", "items": "Item"}},
            {"name": "class", "type": "string"},
        ],
    }  # fmt: skip


def test_docs_do_not_depend_on_the_indentation_of_the_source() -> None:
    """Python 3.13 takes it out of docstrings, 3.11 does not: the schema is the same."""

    class Documented(Event):
        """First line.

        Second one.
        """

    assert Documented.avro_schema()["doc"] == "First line.\n\nSecond one."


@pytest.mark.parametrize(
    ("annotation", "default", "why"),
    [
        (Annotated[str, Fixed("F", 3)], ..., "Fixed is for bytes"),
        (Annotated[bytes | None, Fixed("F", 3)], ..., "for one branch of it"),
        (float, float("nan"), "JSON has no nan"),
        (Annotated[Decimal, Field(max_digits=4, decimal_places=1)], Decimal("1.23"), "more than 1 decimal places"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(annotation: Any, default: Any, why: str) -> None:  # noqa: ANN401
    with pytest.raises(SchemaError, match=f"Odd.field: .*{why}"):
        schema_of(create_model("Odd", field=(annotation, default)))


def test_the_order_of_branches_does_not_hang_on_other_models() -> None:
    """typing's cache gives ``A | B | C`` for ``B | A | C`` where Annotated is among them."""
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    for branches in (["int", millis, "string"], [millis, "int", "string"]):
        schema = {"type": "record", "name": "Mixed", "fields": [{"name": "either", "type": branches}]}
        names: dict[str, Any] = {"__name__": __name__}
        exec(module_of(schema, "mixed.avsc"), names)
        assert same(names["Mixed"].avro_schema(), schema)


def test_names_that_python_does_not_take() -> None:
    fields = ["class", "from", "_id", "json", "model_dump", "Int32", "str", "dt"]
    schema = {"type": "record", "name": "list", "fields": [{"name": name, "type": "int"} for name in fields]}
    model = model_from(schema)
    event = model.model_validate(dict.fromkeys(fields, 1))
    assert set(event.model_dump(by_alias=True)) == set(fields)
    assert source_of(schema, exact=True)[1] == "list_"


def test_code_cannot_be_smuggled_in() -> None:
    evil = '"""\nimport os\nos.abort()\n"""'
    schema = {
        "type": "record", "name": "Evil", "doc": evil,
        "fields": [{"name": "a", "type": "string", "doc": evil, "default": evil}],
    }  # fmt: skip
    model = model_from(schema)
    assert model.model_fields["a"].default == evil
    for bad in ({**schema, "name": "Evil\nimport os"}, {**schema, "fields": [{"name": "a: int\nx", "type": "int"}]}):
        with pytest.raises(SchemaError):
            model_from(bad)


def test_two_spellings_of_one_union_are_one_type() -> None:
    class Both(BaseModel):
        one: Union[int, None] = None  # noqa: UP007 - both spellings are supported
        other: int | None = None

    types = [field["type"] for field in schema_of(Both)["fields"]]
    assert types == [["null", "long"], ["null", "long"]]
