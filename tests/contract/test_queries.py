"""Queries of the log, on both stores: filters one by one and combined, judged by a plain model; pages and cursors."""

import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from pydantic import AwareDatetime, BaseModel, Field
from support.running import running
from support.stores import Store

from gatelog.core.errors import InvalidCursorError, InvalidInputError, SchemaError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import HistoricEvent
from gatelog.producer.relay import Relay
from gatelog.reader import Condition, Query, field
from gatelog.schemas import Event, NewEvent, RecordedEvent


class Address(BaseModel):
    city: str
    floor: int


class Bought(Event):
    customer: str
    total: Decimal = Field(max_digits=12, decimal_places=2)
    weight: float
    urgent: bool
    due: AwareDatetime
    tags: list[str]
    address: Address | None = None


class Counted(Event):
    customer: str
    total: int


START = datetime(2026, 3, 1, tzinfo=UTC)
STORIES = [uuid4() for _ in range(4)]
LONG = "x" * 250  # longer than what an index holds of a text
CUSTOMERS = ["ann", "bob", "Ébène", "x" * 200, LONG, LONG + "y"]


@dataclass(frozen=True)
class Model:
    """An event as it was appended; its position is its place in the list."""

    position: int
    stream: str
    new: NewEvent
    recorded_at: datetime

    @property
    def category(self) -> str:
        return self.stream.partition("-")[0]


Fits = Callable[[Model], bool]


def history(chance: random.Random) -> list[HistoricEvent]:
    """Events whose times are almost in order, as real ones are."""
    versions: dict[str, int] = {}
    found: list[HistoricEvent] = []
    for number in range(150):
        stream = f"{chance.choice(['Order', 'Cart', 'Stock'])}-{chance.randrange(5)}"
        versions[stream] = versions.get(stream, 0) + 1
        data: Event = Counted(customer=chance.choice(CUSTOMERS), total=chance.randrange(20))
        if chance.random() < 0.7:
            data = Bought(
                customer=chance.choice(CUSTOMERS),
                total=Decimal(chance.randrange(2000)) / 100,
                weight=chance.choice([0.5, 1.25, 10.0, -3.0]),
                urgent=chance.random() < 0.5,
                due=START + timedelta(hours=chance.randrange(50), microseconds=chance.choice([0, 1, 500_000])),
                tags=chance.sample(["a", "b", "c"], 2),
                address=chance.choice([None, Address(city="Ulm", floor=2), Address(city="O'Hara$1@x\\", floor=10)]),
            )
        story = chance.choice([None, *STORIES])
        begins = story is not None and not any(
            each.event.id == story for each in found if isinstance(each.event, NewEvent)
        )
        new = (
            NewEvent(data, id=story, correlation_id=None)
            if begins and story
            else NewEvent(data, correlation_id=story)
        )
        when = START + timedelta(minutes=number, seconds=chance.randrange(-90, 90))
        found.append(HistoricEvent(stream, versions[stream], new, when))
    return found


@dataclass
class Filled:
    store: Store
    events: list[Model]


@pytest.fixture
async def filled(store: Store, real: Settings | None) -> Filled:
    """A store whose log is known; the real one has it from its own relay and indexer."""
    loaded = history(random.Random(7))
    await store.producer.load(loaded)
    async with AsyncExitStack() as stack:
        if real is not None:
            await stack.enter_async_context(running(Relay(real), Indexer(real)))
        ids = [each.event.id for each in loaded if isinstance(each.event, NewEvent)]
        positions = await store.reader.indexed(ids, timeout=90)
    models = []
    for position, each in zip(positions, loaded, strict=True):
        assert isinstance(each.event, NewEvent)
        assert each.recorded_at is not None
        models.append(Model(position, each.stream, each.event, each.recorded_at))
    return Filled(store, sorted(models, key=lambda model: model.position))


def attribute(model: Model, *path: str) -> Any:  # noqa: ANN401 - of any payload
    found: Any = model.new.data
    for name in path:
        found = getattr(found, name, None)
    return found


def compared(chance: random.Random) -> tuple[Condition, Fits]:
    """A condition, and the same in Python."""
    kinds: list[tuple[tuple[str, ...], Any]] = [
        (("customer",), chance.choice([*CUSTOMERS, "nobody", "", "x" * 199])),
        (("total",), chance.choice([Decimal("5.5"), 10, 9.99, Decimal("10.00"), -1])),
        (("weight",), chance.choice([0.5, 1, -3, 10])),
        (("due",), START + timedelta(hours=chance.randrange(50), microseconds=chance.choice([0, 1]))),
        (("address", "city"), chance.choice(["Ulm", "O'Hara$1@x\\", "Z"])),
        (("address", "floor"), chance.choice([2, 10])),
    ]
    path, value = chance.choice(kinds)

    def key(found: Any) -> Any:  # noqa: ANN401 - of any payload
        return found.encode() if isinstance(found, str) else found

    tests: list[tuple[Condition, Callable[[Any], bool]]] = [
        (field(*path) == value, lambda found: found == value),
        (field(*path) < value, lambda found: key(found) < key(value)),
        (field(*path) <= value, lambda found: key(found) <= key(value)),
        (field(*path) > value, lambda found: key(found) > key(value)),
        (field(*path) >= value, lambda found: key(found) >= key(value)),
    ]
    condition, holds = chance.choice(tests)
    return condition, lambda model: attribute(model, *path) is not None and holds(attribute(model, *path))


def random_filters(chance: random.Random) -> tuple[dict[str, Any], list[Fits]]:
    """Some filters, and what must be true of every event found."""
    filters: dict[str, Any] = {}
    fits: list[Fits] = []
    if chance.random() < 0.5:
        types: list[Any] = chance.choice(
            [[Bought], [Counted], ["Bought", Counted], ["Nothing"], [Counted, "Nothing"]]
        )
        names = {each if isinstance(each, str) else each.event_type for each in types}
        filters["types"] = types
        fits.append(lambda model: model.new.data.event_type in names)
    if chance.random() < 0.2:
        story = chance.choice([*STORIES, uuid4()])
        filters["correlation_id"] = story
        fits.append(lambda model: story in (model.new.id, model.new.correlation_id))
    if chance.random() < 0.4:
        since = START + timedelta(minutes=chance.randrange(-5, 160))
        filters["since"] = since
        fits.append(lambda model: model.recorded_at >= since)
    if chance.random() < 0.4:
        until = START + timedelta(minutes=chance.randrange(-5, 160))
        filters["until"] = until
        fits.append(lambda model: model.recorded_at < until)
    if chance.random() < 0.6:
        both = [compared(chance) for _ in range(chance.randint(1, 2))]
        filters["where"] = [condition for condition, _ in both]
        fits += [holds for _, holds in both]
    if chance.random() < 0.5:
        filters["backward"] = True
    if chance.random() < 0.3:
        after = chance.randrange(160)
        filters["after"] = after
        fits.append(lambda model: model.position < after if filters.get("backward") else model.position > after)
    return filters, fits


async def positions(query: Query) -> list[int | None]:
    return [event.position async for event in query]


async def paged(query: Query, size: int) -> list[RecordedEvent]:
    found: list[RecordedEvent] = []
    cursor = None
    while True:
        page = await query.page(size, cursor)
        assert len(page.events) <= size
        found += page.events
        if page.cursor is None:
            return found
        assert page.events
        cursor = page.cursor


async def test_filters_alone_and_combined(filled: Filled, chance: random.Random) -> None:
    reader, found_any = filled.store.reader, 0
    for _ in range(200):
        filters, fits = random_filters(chance)
        categories = chance.choice([(), (), ("Order",), ("Cart", "Stock"), ("None",)])
        if categories:
            fits.append(lambda model, names=categories: model.category in names)  # type: ignore[misc] # bound now
        query = reader.category(*categories, **filters) if categories else reader.all(**filters)
        wanted = [model.position for model in filled.events if all(fit(model) for fit in fits)]
        if filters.get("backward"):
            wanted.reverse()
        assert await positions(query) == wanted, (categories, filters)
        found_any += bool(wanted)
        if chance.random() < 0.3:
            assert [event.position for event in await paged(query, chance.randint(1, 9))] == wanted
    assert found_any > 50, "the filters leave nothing to compare"


async def test_equality_as_a_mapping(filled: Filled) -> None:
    reader = filled.store.reader

    async def found(where: Any) -> set[int | None]:  # noqa: ANN401 - what users may write
        return set(await positions(reader.all(where=where)))

    def expected(fits: Fits) -> set[int | None]:
        return {model.position for model in filled.events if fits(model)}

    assert await found({"customer": "ann"}) == expected(lambda m: attribute(m, "customer") == "ann")
    cheap = expected(lambda m: attribute(m, "customer") == "ann" and attribute(m, "total") < 9)
    assert await found([{"customer": "ann"}, field("total") < 9]) == cheap
    in_ulm = expected(lambda m: attribute(m, "address", "city") == "Ulm")
    assert await found({"address": {"city": "Ulm"}}) == in_ulm == await found(field("address", "city") == "Ulm")
    assert in_ulm
    urgent = expected(lambda m: attribute(m, "urgent") is True)
    assert await found({"urgent": True}) == urgent != await found({"urgent": False})
    assert await found({"tags": ["a"]}) == expected(lambda m: "a" in (attribute(m, "tags") or ()))
    homeless = expected(lambda m: isinstance(m.new.data, Bought) and m.new.data.address is None)
    assert await found({"address": None}) == homeless
    assert await found({}) == expected(lambda _: True)
    assert await found({"no": "such field"}) == set()


async def test_a_query_is_used_again_and_a_limit_bounds_it(filled: Filled) -> None:
    query = filled.store.reader.all(limit=7)
    assert await positions(query) == await positions(query) == list(range(1, 8))
    assert await positions(filled.store.reader.all(limit=0)) == []
    assert await positions(filled.store.reader.all(types=[])) == []
    assert await positions(filled.store.reader.all(backward=True, limit=3)) == [150, 149, 148]
    assert await query.explain()
    assert await query.explain(analyze=True)


async def test_cursors(filled: Filled) -> None:
    reader = filled.store.reader
    query = reader.category("Order", types=[Bought])
    first = await query.page(3)
    assert first.cursor is not None
    second = await reader.category("Order", types=["Bought"]).page(3, first.cursor)  # the same query, made anew
    assert first.events[-1].position is not None
    assert [e.position for e in second.events] == await positions(
        reader.category("Order", types=[Bought], after=first.events[-1].position, limit=3)
    )
    others = [
        reader.category("Order"),
        reader.category("Order", types=[Bought], backward=True),
        reader.category("Order", types=[Bought], where={"customer": "ann"}),
        reader.category("Order", types=[Bought], after=1),
        reader.category("Order", types=[Bought], since=START),
        reader.category("Order", types=[Bought], correlation_id=STORIES[0]),
    ]
    for other in others:
        with pytest.raises(InvalidCursorError, match="belongs to another query"):
            await other.page(3, first.cursor)
    for place in range(0, len(first.cursor), 5):
        changed = "A" if first.cursor[place] != "A" else "B"
        with pytest.raises(InvalidCursorError, match=r"altered|not a cursor"):
            await query.page(3, first.cursor[:place] + changed + first.cursor[place + 1 :])
    for nonsense in ("", "x", "é", "A" * 200, first.cursor + "AAAA", first.cursor + "=", "!" + first.cursor):
        with pytest.raises(InvalidCursorError):
            await query.page(3, nonsense)


async def test_bad_filters_are_one_clear_error_each(store: Store) -> None:
    reader = store.reader
    with pytest.raises(InvalidInputError, match="no time zone"):
        reader.all(since=datetime(2026, 1, 1))  # noqa: DTZ001 - on purpose
    with pytest.raises(InvalidInputError, match="no UUID"):
        reader.all(correlation_id="x")  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidInputError, match="no position"):
        reader.all(after=-1)
    with pytest.raises(InvalidInputError, match="negative"):
        reader.all(limit=-1)
    with pytest.raises(SchemaError, match="not a legal Avro name"):
        reader.all(types=["no type"])
    with pytest.raises(InvalidInputError, match="at least one category"):
        reader.category()
    with pytest.raises(InvalidInputError, match="1 to 5,000 are allowed"):
        await reader.all().page(0)
    with pytest.raises(InvalidInputError, match="cannot be compared"):
        reader.all(where={"x": object()})
    with pytest.raises(InvalidInputError, match="one or more names"):
        reader.all(where={"": 1})
    with pytest.raises(InvalidInputError, match="a bool has no order"):
        _ = field("x") > True
    with pytest.raises(InvalidInputError, match="not a number that JSON can hold"):
        _ = field("x") <= float("inf")
    with pytest.raises(InvalidInputError, match="NUL"):
        reader.all(where={"x": "a\0"})
    with pytest.raises(InvalidInputError, match="51 conditions"):
        reader.all(where=[field("x") > n for n in range(51)])
    for big in (10**5000, Decimal("1E+1000000"), Decimal("1E-1000000")):
        with pytest.raises(InvalidInputError, match="1,000 digits"):
            _ = field("x") == big
    with pytest.raises(TypeError, match="as a list"):
        assert 1 < field("x") < 3


BEFORE_TIME = datetime.min.replace(tzinfo=timezone(timedelta(hours=12)))  # in UTC


@pytest.mark.parametrize(
    "filters",
    [
        {"types": "Bought"},  # the letters of a text are no types
        {"types": [3]},
        {"types": ["\ud800"]},
        {"since": "2026-01-01"},
        {"since": datetime(2026, 1, 1).date()},  # noqa: DTZ001 - on purpose
        {"until": BEFORE_TIME},
        {"after": "1"},
        {"after": 2**63},
        {"limit": "1"},
        {"where": {"x": "\ud800"}},
        {"where": {"\ud800": "x"}},
        {"where": {"x": ["\0"]}},
        {"where": {"x": BEFORE_TIME}},
        {"where": {"x": b"bytes"}},
    ],
)
async def test_what_postgres_would_refuse_is_refused_before(store: Store, filters: dict[str, Any]) -> None:
    with pytest.raises((InvalidInputError, SchemaError)):
        store.reader.all(**filters)


async def test_names_are_texts(store: Store) -> None:
    for name in ("\ud800", "\0", 5, None):
        with pytest.raises(InvalidInputError, match="categories"):
            store.reader.category(name)  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidInputError, match="no event id"):
        await store.reader.indexed(["x"])  # type: ignore[list-item] # on purpose
    assert [event async for event in store.reader.all(after=2**63 - 1)] == []


class Priced(Event):
    price: Decimal = Field(max_digits=20, decimal_places=10)
    due: list[AwareDatetime] = Field(default_factory=list)


async def test_small_decimals_and_times_in_lists_are_found(store: Store, real: Settings | None) -> None:
    """Python writes a small decimal as 1E-10, and zero as 0E-10."""
    noon = datetime(2026, 1, 2, 12, tzinfo=timezone(timedelta(hours=2)))
    prices = [Decimal("1E-10"), Decimal(0), Decimal("-0.0000001"), Decimal("2.5")]
    async with AsyncExitStack() as stack:
        if real is not None:
            await stack.enter_async_context(running(Relay(real), Indexer(real)))
        events = [Priced(price=price, due=[noon]) for price in prices]
        await store.reader.indexed((await store.producer.append("Priced-1", events, expected_version=0)).event_ids)

    async def found(*where: Condition) -> list[Decimal]:
        return [event.data.price async for event in store.reader.all(where=where)]  # type: ignore[union-attr]

    assert await found(field("price") >= 0) == [prices[0], prices[1], prices[3]]
    assert await found(field("price") == prices[0]) == prices[:1]
    assert await found(field("price") < 0) == [prices[2]]
    assert await found(field("price") == 0) == [prices[1]]
    assert await found(field("due") == [noon]) == prices


async def test_last_and_exists(store: Store) -> None:
    assert await store.reader.last("Note-1") is None
    assert not await store.reader.exists("Note-1")
    await store.append("Note-1", "a", "b")
    last = await store.reader.last("Note-1")
    assert last is not None
    assert (last.version, last.as_dict()) == (2, {"text": "b"})
    assert await store.reader.exists("Note-1")
