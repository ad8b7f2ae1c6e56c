"""Stored events that an upcaster splits, as readers, subscriptions and projections take them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from gatelog.core.errors import SchemaError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Projection, Reader, State, Subscription
from gatelog.schemas import Event, Part, RecordedEvent, upcast
from gatelog.schemas.upcasting import forget


def _before() -> Any:  # noqa: ANN401 - a class that only exists in here
    class Booked(Event, event_type="split.Booked"):
        guest: str
        nights: int
        breakfasts: str

    return Booked


class Booked(Event, event_type="split.Booked"):
    """What is left of it."""

    guest: str
    nights: int


class BreakfastAdded(Event, event_type="split.BreakfastAdded"):
    """What became an event of its own."""

    count: int


@pytest.fixture
async def stored(settings: Settings, pipeline: None) -> AsyncIterator[None]:
    """Three events of the version before, the last of which the upcaster cannot take, and two of today."""
    before = _before()
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        old = [before(guest=guest, nights=2, breakfasts=count) for guest, count in (("ann", "3"), ("ben", "0"))]
        broken = before(guest="cem", nights=1, breakfasts="all of them")

        class Again(Event, event_type="split.Booked"):  # defined last: what stored events are read as from here on
            guest: str
            nights: int

        await producer.append("Room-1", old, expected_version=ANY)
        await producer.append("Room-2", [broken], expected_version=ANY)
        done = await producer.append("Room-1", [Again(guest="dan", nights=5)], expected_version=ANY)
        added = await producer.append("Room-1", [BreakfastAdded(count=9)], expected_version=ANY)
        await reader.indexed([*done.event_ids, *added.event_ids])

        @upcast("split.Booked", from_version=1, into=["split.Booked", BreakfastAdded])
        def apart(payload: dict[str, Any]) -> list[Part]:
            count = int(payload.pop("breakfasts"))
            booked = Part("split.Booked", payload, version=2)
            return [booked, Part(BreakfastAdded, {"count": count})] if count else [booked]

        yield
    forget("split.Booked")


def _told(event: RecordedEvent) -> tuple[str, int, int, str]:
    return (event.stream, event.version, event.part, event.type.removeprefix("split."))


async def test_readers_yield_the_parts_in_place_of_the_stored_event(settings: Settings, stored: None) -> None:
    async with Reader.connect(settings) as reader:
        stream = [event async for event in reader.stream("Room-1")]
        assert [_told(event) for event in stream] == [
            ("Room-1", 1, 1, "Booked"),
            ("Room-1", 1, 2, "BreakfastAdded"),
            ("Room-1", 2, 1, "Booked"),
            ("Room-1", 3, 1, "Booked"),
            ("Room-1", 4, 1, "BreakfastAdded"),
        ]
        assert stream[0].id == stream[1].id
        assert stream[0].position == stream[1].position
        added = [event async for event in reader.all(types=[BreakfastAdded])]
        assert [_told(event) for event in added] == [
            ("Room-1", 1, 2, "BreakfastAdded"),
            ("Room-2", 1, 1, "Booked"),  # it cannot be decoded: it is not passed over
            ("Room-1", 4, 1, "BreakfastAdded"),
        ]
        assert [event.data for event in (added[0], added[2])] == [BreakfastAdded(count=3), BreakfastAdded(count=9)]
        page = await reader.all().page(2)
        parts = [(1, 1, "Booked"), (1, 2, "BreakfastAdded"), (2, 1, "Booked")]
        assert [_told(event)[1:] for event in page.events] == parts
        rest = await reader.all().page(10, page.cursor)
        assert [_told(event)[:2] for event in rest.events] == [("Room-2", 1), ("Room-1", 3), ("Room-1", 4)]
        backward = [event async for event in reader.stream("Room-1", backward=True, limit=4)]
        assert [_told(event)[1:3] for event in backward] == [(4, 1), (3, 1), (2, 1), (1, 2), (1, 1)]


async def test_handlers_get_the_parts_that_they_take(settings: Settings, stored: None) -> None:
    subscription = Subscription("breakfasts", concurrency=1)
    found: list[tuple[str, int, int, str]] = []
    stop = asyncio.Event()

    @subscription.on(BreakfastAdded)
    async def count(event: RecordedEvent[BreakfastAdded]) -> None:
        found.append(_told(event))
        assert event.data.count in (3, 9)
        if event.version == 4:
            stop.set()

    await asyncio.wait_for(subscription.run(stop, settings), 60)
    assert found == [("Room-1", 1, 2, "BreakfastAdded"), ("Room-1", 4, 1, "BreakfastAdded")]


async def test_iteration_yields_parts_too(settings: Settings, stored: None) -> None:
    stop, found = asyncio.Event(), []
    events = Subscription("loop", categories=["Room"]).events(stop, settings, types=[BreakfastAdded])
    async with asyncio.timeout(60), aclosing(events):
        async for event in events:
            found.append(_told(event))
            if len(found) == 3:
                stop.set()
    assert sorted(found) == [
        ("Room-1", 1, 2, "BreakfastAdded"),
        ("Room-1", 4, 1, "BreakfastAdded"),
        ("Room-2", 1, 1, "Booked"),
    ]


async def test_projections_are_given_parts(settings: Settings, stored: None) -> None:
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f'CREATE TABLE "{settings.store}".counted (version bigint, part int, count int)')
    stop = asyncio.Event()
    projection = Projection("counted", categories=["Room"], types=[BreakfastAdded])

    @projection.batch
    async def write(into: Any, events: Any) -> None:  # noqa: ANN401 - as its signature has it
        for event in events:
            if event.stream == "Room-2":
                continue
            await into.execute(
                f'INSERT INTO "{settings.store}".counted VALUES ($1, $2, $3)',
                event.version,
                event.part,
                event.data.count,
            )
            if event.version == 4:
                stop.set()

    await projection.prepare(settings)
    await asyncio.wait_for(projection.run(stop, settings), 60)
    rows = await connection.fetch(f'SELECT * FROM "{settings.store}".counted ORDER BY version')
    await connection.close()
    assert [tuple(row) for row in rows] == [(1, 2, 3), (4, 1, 9)]


async def test_a_missing_step_is_an_error_of_the_start(settings: Settings, stored: None) -> None:
    forget("split.Booked")
    upcast("split.Booked", from_version=1)(lambda payload: payload)

    class Newest(Event, event_type="split.Booked"):
        who: str

    missing = r"version 2 cannot be read as version 3 .*@upcast\(split\.Booked, from_version=2\)"
    with pytest.raises(SchemaError, match=missing):
        async with Reader.connect(settings):
            pass
    with pytest.raises(SchemaError, match=missing):
        async with aclosing(Subscription("x").events(asyncio.Event(), settings)) as events:
            await anext(events)


class Breakfasts(State):
    """How many there are."""

    count: int = 0
    nights: int = 0

    def apply(self, event: RecordedEvent) -> None:
        if event.type == "split.BreakfastAdded":
            assert isinstance(event.data, BreakfastAdded)
            self.count += event.data.count
        else:
            self.nights += 1


async def test_a_fold_goes_on_behind_all_parts_of_its_snapshot(settings: Settings, producer: Producer) -> None:
    before = _before()
    await producer.append("Room-3", [before(guest="eve", nights=1, breakfasts="2")], expected_version=ANY)

    class Again(Event, event_type="split.Booked"):
        guest: str
        nights: int

    @upcast("split.Booked", from_version=1, into=["split.Booked", BreakfastAdded])
    def apart(payload: dict[str, Any]) -> list[Part]:
        return [Part("split.Booked", payload), Part(BreakfastAdded, {"count": int(payload.pop("breakfasts"))})]

    try:
        async with Reader.connect(settings) as reader:
            for expected in (1, 2):
                state = await reader.fold("Room-3", Breakfasts, snapshot_every=1)
                again = await reader.fold("Room-3", Breakfasts, snapshot_every=1)
                assert (state.count, state.nights) == (again.count, again.nights) == (2 * expected, 1)
                await producer.append("Room-3", [BreakfastAdded(count=2)], expected_version=ANY)
    finally:
        forget("split.Booked")
