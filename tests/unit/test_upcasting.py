"""Old payloads become events of the newest models: Avro's rules and upcasters, in turns."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from gatelog.core.errors import IncompatibleSchemaError, SchemaError, UndecodableRecordError
from gatelog.schemas import Event, Part, RecordedEvent, upcast
from gatelog.schemas.codec import Codec
from gatelog.schemas.evolution import PARTS_MAX, UpcastError
from gatelog.schemas.parts import as_read
from gatelog.schemas.registry import Compatibility
from gatelog.schemas.upcasting import forget, stored_types_of
from gatelog.testing.registry import MemoryRegistry

Payload = dict[str, Any]


@pytest.fixture(autouse=True)
def no_upcasters() -> Iterator[None]:
    yield
    for name in ("Ordered", "Created", "Discounted", "Refunded"):
        forget(name)


class Stored:
    """A store of payloads that older programs wrote, and how this program reads them."""

    def __init__(self) -> None:
        self.registry = MemoryRegistry()
        self._writer = Codec(self.registry, register=True)
        self._rows: list[tuple[Any, ...]] = []

    async def write(self, event: Event) -> None:
        await self.registry.set_level(Compatibility.NONE)  # older programs had the upcasters of their time
        await self._writer.learn(type(event))
        schema_id, data = self._writer.encode(event, "Order-1", 1 << 20)
        version = len(self._rows) + 1
        row = (
            "Order-1",
            version,
            version,
            uuid4(),
            event.event_type,
            datetime.now(UTC),
            *[None] * 4,
            schema_id,
            data,
        )
        self._rows.append(row)

    async def read(self, types: list[str] | None = None) -> list[RecordedEvent]:
        codec = Codec(self.registry, register=False)
        await codec.start()
        await codec.warm({row[10] for row in self._rows})
        return as_read([RecordedEvent(row, codec) for row in self._rows], types)

    async def data(self) -> list[Any]:
        return [event.data for event in await self.read()]


class First(Event, event_type="Ordered"):
    customer: str
    amount: int


class Second(Event, event_type="Ordered"):
    customer: str
    cents: int


class Third(Event, event_type="Ordered"):
    customer: str
    cents: int
    currency: str = "EUR"


class Fourth(Event, event_type="Ordered"):
    buyer: str
    cents: int
    currency: str = "EUR"


async def _four_versions() -> Stored:
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))
    await stored.write(Second(customer="ben", cents=150))
    await stored.write(Third(customer="cem", cents=20, currency="USD"))
    await stored.write(Fourth(buyer="dan", cents=7))
    return stored


def _now(name: str = "Ordered") -> Any:  # noqa: ANN401 - a class that only exists in here
    """Define the newest model again, last: it is what stored events are read as."""

    class Now(Event, event_type=name):
        buyer: str
        cents: int
        currency: str = "EUR"

    return Now


async def test_avro_and_upcasters_take_turns() -> None:
    stored, now = await _four_versions(), _now()

    @upcast("Ordered", from_version=1)
    def _(payload: Payload) -> Payload:
        return {"customer": payload["customer"], "cents": payload["amount"] * 100}

    @upcast("Ordered", from_version=3)  # what is version 2 is read as version 3 by Avro's rules
    def _(payload: Payload) -> Payload:
        return {"buyer": payload["customer"], "cents": payload["cents"], "currency": payload["currency"]}

    assert await stored.data() == [
        now(buyer="ann", cents=300, currency="EUR"),
        now(buyer="ben", cents=150, currency="EUR"),
        now(buyer="cem", cents=20, currency="USD"),
        now(buyer="dan", cents=7, currency="EUR"),
    ]
    assert [(event.type, event.part, event.parts) for event in await stored.read()] == [("Ordered", 1, 1)] * 4
    assert (await stored.read())[0].as_dict() == {"customer": "ann", "amount": 3}


async def test_a_model_that_is_not_registered_yet_is_the_next_version() -> None:
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))
    now = _now()

    @upcast("Ordered", from_version=1)
    def _(payload: Payload) -> Payload:
        return {"buyer": payload["customer"], "cents": payload["amount"] * 100}

    assert await stored.data() == [now(buyer="ann", cents=300, currency="EUR")]


async def test_a_missing_step_is_named_before_anything_is_read() -> None:
    stored = await _four_versions()
    _now()

    @upcast("Ordered", from_version=1)
    def _(payload: Payload) -> Payload:
        return {"customer": payload["customer"], "cents": payload["amount"] * 100}

    with pytest.raises(
        SchemaError, match=r"version 3 cannot be read as version 4 .*@upcast\(Ordered, from_version=3\)"
    ):
        await Codec(stored.registry, register=False).start()
    forget("Ordered")

    @upcast("Ordered", from_version=3)
    def _(payload: Payload) -> Payload:
        return {**payload, "buyer": payload["customer"]}

    with pytest.raises(
        SchemaError, match=r"version 1 cannot be read as version 2 .*@upcast\(Ordered, from_version=1\)"
    ):
        await Codec(stored.registry, register=False).start()


async def test_a_step_to_nowhere_is_named() -> None:
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))

    class Now(Event, event_type="Ordered"):
        customer: str
        amount: int

    @upcast(Now, from_version=1)
    def _(payload: Payload) -> Payload:
        return payload

    with pytest.raises(SchemaError, match="makes version 2, but the newest one is 1"):
        await Codec(stored.registry, register=False).start()


async def test_versions_can_be_pinned_whatever_the_registry_counts() -> None:
    stored = Stored()

    class Tried(Event, event_type="Ordered"):
        tried: str = ""

    class One(Event, event_type="Ordered", schema_version=10):
        customer: str

    class Two(Event, event_type="Ordered", schema_version=11):
        buyer: str

    await stored.write(Tried())
    await stored.write(One(customer="ann"))
    assert [schema.version for schema in await stored.registry.versions("Ordered")] == [1, 2]

    @upcast(Two, from_version=10)
    def _(payload: Payload) -> Payload:
        return {"buyer": payload["customer"]}

    @upcast(Two, from_version=1)
    def _(payload: Payload) -> Payload:
        raise AssertionError("never")

    with pytest.raises(SchemaError, match="Ordered has no version 2"):
        await stored.read()
    forget("Ordered")

    @upcast(Two, from_version=1, into=Two)
    def _(payload: Payload) -> Payload:
        return {"buyer": "nobody"}

    @upcast(Two, from_version=10)
    def _(payload: Payload) -> Payload:
        return {"buyer": payload["customer"]}

    assert await stored.data() == [Two(buyer="nobody"), Two(buyer="ann")]


async def test_one_event_becomes_several_and_each_goes_on_from_its_version() -> None:
    stored = Stored()

    class Both(Event, event_type="Ordered"):
        customer: str
        discount: int

    class Old(Event, event_type="Discounted"):
        amount: int

    await stored.write(Old(amount=1))
    await stored.write(Both(customer="ann", discount=2))

    class Ordered(Event):
        customer: str

    class Discounted(Event):
        cents: int

    @upcast(Ordered, from_version=1, into=[Ordered, Discounted])
    def _(payload: Payload) -> list[Part]:
        parts = [Part(Ordered, {"customer": payload["customer"]})]
        return [*parts, Part(Discounted, {"amount": payload["discount"]}, version=1), Part(Discounted, {"cents": 5})]

    @upcast(Discounted, from_version=1)
    def _(payload: Payload) -> Payload:
        return {"cents": payload["amount"] * 100}

    events = await stored.read()
    assert [(e.version, e.type, e.part, e.parts) for e in events] == [
        (1, "Discounted", 1, 1),
        (2, "Ordered", 1, 3),
        (2, "Discounted", 2, 3),
        (2, "Discounted", 3, 3),
    ]
    assert [e.data for e in events] == [
        Discounted(cents=100),
        Ordered(customer="ann"),
        Discounted(cents=200),
        Discounted(cents=5),
    ]
    assert len({(e.id, e.part) for e in events}) == len(set(events)) == 4
    assert [e.part for e in await stored.read(["Discounted"])] == [1, 2, 3]
    assert stored_types_of(["Discounted"]) == {"Discounted", "Ordered"}
    codec = Codec(stored.registry, register=False)
    await codec.warm({events[1].schema_id})
    with pytest.raises(UndecodableRecordError, match="read as 3 events"):
        codec.decode("Ordered", events[1].schema_id, events[1].raw)


async def test_a_type_can_be_renamed_for_good() -> None:
    stored = Stored()

    class Created(Event):
        customer: str

    await stored.write(Created(customer="ann"))

    class Ordered(Event):
        customer: str

    @upcast("Created", from_version=1, into=Ordered)
    def _(payload: Payload) -> Payload:
        return payload

    (event,) = await stored.read(["Ordered"])
    assert (event.type, event.data, event.parts) == ("Ordered", Ordered(customer="ann"), 1)
    assert await stored.read(["Created"]) == []


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (None, "returned NoneType, not a dict"),
        ([Part("Ordered", {"buyer": "x", "cents": 1}, 2)], "returned list, not a dict"),
        ({"buyer": "x"}, "not a legal Ordered today"),
        ({"buyer": "x", "cents": "many"}, "not a legal Ordered today"),
    ],
)
async def test_what_an_upcaster_makes_is_checked(made: Any, why: str) -> None:  # noqa: ANN401 - anything at all
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))
    _now()
    upcast("Ordered", from_version=1)(lambda _payload: made)
    (event,) = await stored.read()
    with pytest.raises(UpcastError, match=why):
        _ = event.data


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ([], "at least one Part"),
        ({"cents": 1}, "at least one Part"),
        ([{"cents": 1}], "at least one Part"),
        ([Part("Refunded", {})], "made Refunded, which its into= does not name"),
        ([Part("Ordered", {"customer": 1, "amount": 2}, 1)], "not version 1 of Ordered|in a circle"),
        ([Part("Ordered", {"customer": "a", "amount": 2}, 1)], "in a circle"),
        ([Part("Ordered", {"customer": "a"}, 9)], "version 9, which does not exist"),
        ([Part("Ordered", {"buyer": "a", "cents": 2})] * (PARTS_MAX + 1), "over 1,000 events"),
    ],
)
async def test_what_a_split_makes_is_checked(made: Any, why: str) -> None:  # noqa: ANN401 - anything at all
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))
    _now()
    _now("Discounted")
    upcast("Ordered", from_version=1, into=["Ordered", "Discounted"])(lambda _payload: made)
    (event,) = await stored.read(["Discounted"])  # nobody knows what it would be: it is not passed over
    assert (event.type, event.part) == ("Ordered", 1)
    with pytest.raises(UpcastError, match=why):
        _ = event.data


async def test_an_error_of_an_upcaster_says_which_one() -> None:
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))
    _now()

    @upcast("Ordered", from_version=1)
    def broken(payload: Payload) -> Payload:
        return {"buyer": payload["name"], "cents": 1}

    (event,) = await stored.read()
    with pytest.raises(UpcastError, match=r"broken of Ordered from version 1 raised KeyError: 'name'") as caught:
        _ = event.data
    assert (caught.value.event_type, caught.value.from_version) == ("Ordered", 1)


def test_upcasters_are_checked_when_they_are_defined() -> None:
    upcast("Ordered", from_version=1)(lambda payload: payload)
    with pytest.raises(SchemaError, match="two upcasters of Ordered from version 1"):
        upcast("Ordered", from_version=1)(dict)
    with pytest.raises(SchemaError, match="versions begin at 1"):
        upcast("Ordered", from_version=0)
    with pytest.raises(SchemaError, match="names no event type"):
        upcast("Ordered", from_version=2, into=())
    with pytest.raises(SchemaError, match="legal Avro name"):
        upcast("not a name", from_version=1)


async def test_a_program_registers_what_does_not_fit_only_if_it_has_an_upcaster() -> None:
    codec = Codec(MemoryRegistry(), register=True)
    await codec.learn(First)
    with pytest.raises(IncompatibleSchemaError, match="cents"):
        await codec.learn(Second)
    upcast(Second, from_version=1)(
        lambda payload: {"customer": payload["customer"], "cents": payload["amount"] * 100}
    )
    await codec.learn(Second)
    with pytest.raises(IncompatibleSchemaError, match="buyer"):
        await codec.learn(Fourth)


async def test_an_older_program_reads_what_a_newer_one_wrote() -> None:
    stored = Stored()
    await stored.write(First(customer="ann", amount=3))
    await stored.write(Second(customer="ben", cents=150))
    await stored.write(Third(customer="cem", cents=20))

    class Now(Event, event_type="Ordered"):
        customer: str
        cents: int

    @upcast(Now, from_version=1)
    def _(payload: Payload) -> Payload:
        return {"customer": payload["customer"], "cents": payload["amount"] * 100}

    assert await stored.data() == [
        Now(customer="ann", cents=300),
        Now(customer="ben", cents=150),
        Now(customer="cem", cents=20),
    ]


async def test_who_decodes_as_written_is_not_held_up_by_a_missing_upcaster() -> None:
    stored = await _four_versions()
    _now()
    upcast("Ordered", from_version=1)(lambda payload: payload)
    ids = {schema.id for schema in await stored.registry.versions("Ordered")}
    with pytest.raises(SchemaError):
        await Codec(stored.registry, register=False).warm(ids)
    codec = Codec(stored.registry, register=False, upcasts=False)
    await codec.warm(ids)
    assert codec.to_dict(1, b"\6ann\6") == {"customer": "ann", "amount": 3}
