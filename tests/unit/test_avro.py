"""Models, their Avro schemas, and the bytes in between."""

import contextlib
import enum
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, Field, NaiveDatetime, create_model
from support.codecs import codec_for
from support.models import Noted

from gatelog.core.errors import InvalidEventError, SchemaError, UndecodableRecordError
from gatelog.schemas import Event
from gatelog.schemas.avro import schema_of
from gatelog.schemas.codec import Codec
from gatelog.schemas.from_avro import model_from
from gatelog.testing.registry import MemoryRegistry


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    sku: str
    count: int


class Numbered(Event):
    numbers: list[int]


class Everything(Event):
    """One field of each kind."""

    flag: bool
    number: int = Field(ge=-(2**63), lt=2**63)
    real: float
    text: str
    raw: bytes
    uid: UUID
    at: AwareDatetime
    local: NaiveDatetime
    day: date
    clock: time
    money: Decimal = Field(max_digits=12, decimal_places=2)
    colour: Colour
    kind: Literal["a", "b"]
    tags: list[str]
    unique: frozenset[str]
    counts: dict[str, int]
    line: Line
    lines: list[Line]
    maybe: Optional[Line]  # noqa: UP045 - both spellings of a union are supported
    either: int | str | None


MICROS = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1))  # noqa: DTZ001 - local times
LONGS = st.integers(-(2**63), 2**63 - 1)
LINES = st.builds(Line, sku=st.text(), count=LONGS)
EVERYTHING = st.builds(
    Everything,
    flag=st.booleans(),
    number=LONGS,
    real=st.floats(allow_nan=False),
    text=st.text(),
    raw=st.binary(),
    uid=st.uuids(),
    at=MICROS.map(lambda when: when.replace(tzinfo=UTC)),
    local=MICROS,
    day=st.dates(),
    clock=st.times(),
    money=st.decimals(min_value=-(10**10) + 1, max_value=10**10 - 1, places=2),
    colour=st.sampled_from(Colour),
    kind=st.sampled_from(["a", "b"]),
    tags=st.lists(st.text()),
    unique=st.frozensets(st.text()),
    counts=st.dictionaries(st.text(), LONGS),
    line=LINES,
    lines=st.lists(LINES),
    maybe=st.none() | LINES,
    either=st.none() | LONGS | st.text(),
)


@given(EVERYTHING)
async def test_every_kind_of_field_comes_back(event: Everything) -> None:
    codec = await codec_for(Everything)
    schema_id, data = codec.encode(event, "S-1", 1 << 20)
    await codec.warm({schema_id})
    assert codec.to_model(schema_id, data, Everything) == event


async def test_a_model_made_from_the_schema_writes_the_same_bytes() -> None:
    """The command line has no class, only the schema."""

    class Sent(Event):
        customer: str
        total: Decimal = Field(max_digits=9, decimal_places=2)
        lines: list[Line]
        note: str | None = None

    made = model_from(Sent.avro_schema())
    json = '{"customer": "ann", "total": "9.90", "lines": [{"sku": "x", "count": 2}]}'
    registry = MemoryRegistry()
    ours, theirs = Codec(registry, register=True), Codec(registry, register=True)
    await ours.learn(Sent)
    await theirs.learn(made)
    assert ours.encode(Sent.model_validate_json(json), "S-1", 999) == theirs.encode(
        made.model_validate_json(json), "S-1", 999
    )


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (datetime, "AwareDatetime or NaiveDatetime"),
        (Decimal, "max_digits"),
        (complex, "no Avro counterpart"),
        (dict[int, str], "no Avro counterpart"),
        (tuple[int, str], "no Avro counterpart"),
        (object, "no Avro counterpart"),
        (Literal[1, 2], "enums hold identifiers"),
        (Literal["with space"], "enums hold identifiers"),
        (list[str] | list[int], "each kind of type once"),
    ],
)
def test_what_avro_cannot_say_is_refused_by_name(annotation: Any, why: str) -> None:  # noqa: ANN401 - any annotation
    model = create_model("Odd", field=(annotation, ...))
    with pytest.raises(SchemaError, match=why) as refused:
        schema_of(model)
    assert "Odd.field" in str(refused.value)


def test_defaults_are_part_of_the_schema() -> None:
    class Defaulted(BaseModel):
        text: str = "x"
        maybe: str | None = None
        other: str | None = "y"
        tags: list[str] = Field(default_factory=list)

    fields = {field["name"]: (field["type"], field["default"]) for field in schema_of(Defaulted)["fields"]}
    assert fields == {
        "text": ("string", "x"),
        "maybe": (["null", "string"], None),
        "other": (["string", "null"], "y"),  # the default's branch comes first
        "tags": ({"type": "array", "items": "string"}, []),
    }


def test_annotated_fields_and_docs() -> None:
    class Documented(BaseModel):
        """Says what it is."""

        size: Annotated[int, Field(description="in bytes")]

    schema = schema_of(Documented)
    assert schema["doc"] == "Says what it is."
    assert schema["fields"] == [{"name": "size", "type": "long", "doc": "in bytes"}]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
async def test_a_number_that_avro_cannot_hold_is_refused(value: int) -> None:
    class Counted(Event):
        number: int

    codec = await codec_for(Counted)
    with pytest.raises(InvalidEventError, match="Counted for stream 'S-1' refused"):
        codec.encode(Counted(number=value), "S-1", 1 << 20)


async def test_an_event_over_the_limit_is_refused() -> None:
    codec = await codec_for(Noted)
    assert codec.encode(Noted(text="x" * 98), "S-1", 100)
    with pytest.raises(InvalidEventError, match="it has 101 bytes; 100 are allowed"):
        codec.encode(Noted(text="x" * 99), "S-1", 100)


async def test_surrogates_are_refused() -> None:
    codec = await codec_for(Noted)
    with pytest.raises(InvalidEventError, match="does not fit its schema"):
        codec.encode(Noted.model_construct(text="\ud800"), "S-1", 100)


async def test_older_events_are_read_as_the_newest_model() -> None:
    class Before(Event, event_type="Moved"):
        street: str
        dropped: int

    codec = await codec_for(Before)
    schema_id, data = codec.encode(Before(street="Main St", dropped=1), "S-1", 100)

    class Now(Event, event_type="Moved"):
        street: str
        city: str | None = None

    await codec.warm({schema_id})
    assert codec.decode("Moved", schema_id, data) == Now(street="Main St")
    assert codec.to_dict(schema_id, data) == {"street": "Main St", "dropped": 1}


async def test_a_type_without_a_model_is_a_dict() -> None:
    codec = await codec_for(Noted)
    schema_id, data = codec.encode(Noted(text="x"), "S-1", 100)
    await codec.warm({schema_id})
    assert codec.decode("NobodyDefinesThis", schema_id, data) == {"text": "x"}


async def test_a_change_that_does_not_resolve_is_one_clear_error() -> None:
    class Early(Event, event_type="Priced"):
        price: str

    codec = await codec_for(Early)
    schema_id, data = codec.encode(Early(price="9"), "S-1", 100)
    await codec.warm({schema_id})

    class Late(Event, event_type="Priced"):
        price: int

    with pytest.raises(UndecodableRecordError, match="do not resolve"):
        codec.to_model(schema_id, data, Late)
    with pytest.raises(UndecodableRecordError, match="Schema id 99"):
        codec.to_dict(99, data)


@given(st.binary(max_size=200))
async def test_hostile_bytes_are_one_clear_error_or_an_event(data: bytes) -> None:
    codec = await codec_for(Everything)
    await codec.warm({1})
    with contextlib.suppress(UndecodableRecordError):
        codec.to_model(1, data, Everything)


@pytest.mark.parametrize("claimed", [b"\xfe\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x09"])
@pytest.mark.parametrize("model", [Noted, Numbered])
async def test_a_length_of_gigabytes_is_refused_at_once(model: type[Event], claimed: bytes) -> None:
    """A string or a list that claims 2 GB, 2⁶³ bytes, or a negative number of them."""
    codec = await codec_for(model)
    await codec.warm({1})
    with pytest.raises(UndecodableRecordError, match="do not resolve"):
        codec.to_dict(1, claimed + b"x")


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


class Kind(Enum):
    TAME = "tame"


class Owner(Event):
    pet: Cat | Dog
    others: list[Dog | Cat | None]
    by_name: dict[str, Dog]
    kind: Kind | None
    mixed: Cat | list[Dog] | Kind
    called: str = Field(alias="class")
    parent: "Owner | None" = None


async def test_nested_models_enums_and_aliases_come_back_as_they_were() -> None:
    codec = await codec_for(Owner)
    for mixed in (Cat(name="x"), [Dog(name="y")], Kind.TAME):
        owner = Owner(
            pet=Dog(name="a"),
            others=[Cat(name="b"), None, Dog(name="c")],
            by_name={"d": Dog(name="d")},
            kind=Kind.TAME,
            mixed=mixed,
            **{"class": "e"},
        )
        owner = owner.model_copy(update={"parent": owner})
        schema_id, data = codec.encode(owner, "S-1", 1 << 20)
        await codec.warm({schema_id})
        written = codec.to_dict(schema_id, data)
        assert written["class"] == "e"
        assert written["parent"]["pet"] == {"name": "a"}
        assert data[0] == 2, "Dog is the second branch: its fields are those of Cat"
        again = codec.to_model(schema_id, data, Owner)
        assert again.model_dump() == owner.model_dump()
