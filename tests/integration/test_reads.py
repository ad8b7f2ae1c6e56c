"""Reads while events are on their way, in pages, by filters, and of events with older schemas."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.errors import (
    InvalidInputError,
    InvalidStreamIdError,
    StoreNotInitialisedError,
    StreamNotFoundError,
    WaitTimeoutError,
)
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import Event


class Paid(Event):
    amount: int
    by: str = "card"


async def texts(reader: Reader, stream: str, *, backward: bool = False) -> list[str]:
    events = reader.stream(stream, backward=backward)
    return [event.data.text async for event in events if isinstance(event.data, Noted)]


async def test_a_stream_is_whole_at_every_moment(settings: Settings, producer: Producer) -> None:
    """Read without a pause, in small pages, while its events go from the outbox to the index and leave the outbox."""
    acknowledged = 0
    stop = asyncio.Event()

    async def append() -> None:
        nonlocal acknowledged
        while not stop.is_set():
            await producer.append("Note-1", [Noted(text=str(acknowledged))], expected_version=acknowledged)
            acknowledged += 1
            await asyncio.sleep(0.001)

    async def read(reader: Reader, backward: bool) -> int:
        reads = 0
        while not stop.is_set():
            least = acknowledged
            if least == 0:
                await asyncio.sleep(0)
                continue
            found = await texts(reader, "Note-1", backward=backward)
            expected = [str(n) for n in range(len(found))]
            assert found == (expected[::-1] if backward else expected)
            assert len(found) >= least, "an acknowledged append was not seen"
            reads += 1
        return reads

    small_pages = settings.model_copy(update={"read_rows_max": 7})
    async with (
        Reader.connect(small_pages) as reader,
        running(Relay(settings), Indexer(settings), OutboxKeeper(settings)),
    ):
        work = [asyncio.create_task(read(reader, backward)) for backward in (False, True)]
        appending = asyncio.create_task(append())

        async def enough() -> bool:
            return acknowledged >= 500 or any(task.done() for task in [*work, appending])

        await until(enough, "500 events are appended")
        stop.set()
        await appending
        assert all(reads > 5 for reads in await asyncio.gather(*work))
        assert len(await texts(reader, "Note-1")) == acknowledged


async def test_categories_and_filters(settings: Settings, producer: Producer, reader: Reader, pipeline: None) -> None:
    ids: list[UUID] = []
    for number in range(12):
        event = Paid(amount=number) if number % 3 == 0 else Noted(text=f"n{number}")
        done = await producer.append(f"C{number % 2}-{number % 4}", [event], expected_version=ANY)
        ids += done.event_ids
    assert await reader.indexed(ids) == list(range(1, 13))
    everything = [event async for event in reader.all()]
    assert [event.id for event in everything] == ids

    async def found(**filters: object) -> list[int | None]:
        return [event.position async for event in reader.all(**filters)]  # type: ignore[arg-type] # each has its own type

    assert [event.position async for event in reader.category("C1")] == [2, 4, 6, 8, 10, 12]
    assert [event.position async for event in reader.category("C1", "C0", limit=3)] == [1, 2, 3]
    assert [event.position async for event in reader.category("C9")] == []
    assert await found(types=[Paid]) == await found(types=["Paid"]) == [1, 4, 7, 10]
    assert await found(types=[Paid], where={"amount": 6}) == [7]
    assert await found(where={"by": "card"}, after=4) == [7, 10]
    assert await found(where={"by": "cash"}) == []
    assert await found(after=10, limit=1) == [11]
    assert await found(limit=0) == []
    assert await found(types=[]) == []
    fifth, ninth = everything[4].recorded_at, everything[8].recorded_at
    assert await found(since=fifth, until=ninth) == [5, 6, 7, 8]
    assert await found(since=ninth + timedelta(days=1)) == []
    with pytest.raises(InvalidInputError):
        reader.category()
    with pytest.raises(InvalidInputError):
        await found(limit=-1)


async def test_older_events_are_read_as_the_newest_model(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None
) -> None:
    class Before(Event, event_type="AddressChanged"):
        street: str

    class Now(Event, event_type="AddressChanged"):
        street: str
        city: str | None = None

    await producer.append("Address-1", [Before(street="Main St")], expected_version=0)
    await producer.append("Address-1", [Now(street="High St", city="Ulm")], expected_version=1)
    async with Reader.connect(settings) as fresh:
        events = [event async for event in fresh.stream("Address-1")]
    assert [event.data for event in events] == [Now(street="Main St"), Now(street="High St", city="Ulm")]
    assert [event.as_dict() for event in events] == [{"street": "Main St"}, {"street": "High St", "city": "Ulm"}]
    assert events[0].schema_id != events[1].schema_id


async def test_waiting_has_a_bound_and_says_what_to_look_at(producer: Producer, reader: Reader) -> None:
    done = await producer.append("Note-1", [Noted(text="x")], expected_version=0)
    with pytest.raises(WaitTimeoutError, match=r"0 of 1 events.*relay and indexer"):
        await reader.indexed(done.event_ids, timeout=0.2)


async def test_bad_input_is_refused(reader: Reader) -> None:
    with pytest.raises(InvalidStreamIdError):
        await reader.version("nothing")
    with pytest.raises(StreamNotFoundError, match="'Note-1' has no events"):
        await texts(reader, "Note-1")


async def test_a_store_without_tables(bare_settings: Settings) -> None:
    with pytest.raises(StoreNotInitialisedError):
        async with Reader.connect(bare_settings):
            raise AssertionError("never entered")
    with pytest.raises(StoreNotInitialisedError):
        async with Producer.connect(bare_settings):
            raise AssertionError("never entered")
