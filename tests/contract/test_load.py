"""Bulk import, in the real store and in memory."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from support.models import Noted
from support.stores import Store

from gatelog.core.errors import ConflictError, EventIdReusedError, InvalidInputError, StreamClosedError
from gatelog.producer import ANY, HistoricEvent, Loaded
from gatelog.schemas import NewEvent

WHEN = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=UTC)


def history(streams: int, versions: int) -> list[HistoricEvent]:
    """Events of several streams, interleaved as they happened."""
    return [
        HistoricEvent(f"Note-{stream}", version, NewEvent(Noted(text=f"{stream}.{version}")), WHEN)
        for version in range(1, versions + 1)
        for stream in range(streams)
    ]


async def test_load_stores_streams_versions_and_times(store: Store) -> None:
    assert await store.producer.load(history(streams=30, versions=7)) == Loaded(210, 0)
    for stream in (0, 29):
        events = [event async for event in store.reader.stream(f"Note-{stream}")]
        assert [event.version for event in events] == list(range(1, 8))
        assert [event.data for event in events] == [Noted(text=f"{stream}.{version}") for version in range(1, 8)]
        assert {event.recorded_at for event in events} == {WHEN}
    assert await store.append("Note-0", "next", expected=7) == 8


async def test_a_load_that_was_cut_off_is_run_again(store: Store) -> None:
    events = history(streams=30, versions=7)
    assert await store.producer.load(events[:100]) == Loaded(100, 0)
    assert await store.producer.load(events) == Loaded(110, 100)
    assert await store.producer.load(events) == Loaded(0, 210)
    assert await store.reader.version("Note-0") == 7


async def test_load_takes_async_iterables(store: Store) -> None:
    async def events() -> AsyncIterator[HistoricEvent]:
        for event in history(streams=2, versions=2):
            yield event

    assert await store.producer.load(events()) == Loaded(4, 0)


@pytest.mark.parametrize("versions", [[2], [1, 3], [1, 1], [2, 1], [0], [-1]])
async def test_versions_that_do_not_follow_are_refused(store: Store, versions: list[int]) -> None:
    events = [HistoricEvent("Note-1", version, Noted(text="x")) for version in versions]
    with pytest.raises((ConflictError, InvalidInputError), match="Note-1"):
        await store.producer.load(events)
    assert await store.reader.version("Note-1") == 0


async def test_a_stream_that_went_on_is_a_conflict(store: Store) -> None:
    await store.append("Note-1", "a")
    with pytest.raises(ConflictError) as conflict:
        await store.producer.load(history(streams=3, versions=2))
    assert (conflict.value.stream, conflict.value.expected, conflict.value.actual) == ("Note-1", 0, 1)
    assert await store.reader.version("Note-0") == 0, "a chunk is stored as a whole or not at all"


async def test_an_id_of_another_event_is_refused(store: Store) -> None:
    events = history(streams=2, versions=2)
    await store.producer.append("Note-other", [events[3].event], expected_version=ANY)
    with pytest.raises(EventIdReusedError):
        await store.producer.load(events)
    with pytest.raises(InvalidInputError, match="twice"):
        await store.producer.load([events[0], HistoricEvent("Note-1", 1, events[0].event)])
    assert await store.reader.version("Note-0") == 0


async def test_a_closed_stream_takes_no_history(store: Store) -> None:
    await store.append("Note-1", "a")
    await store.producer.close_stream("Note-1", expected_version=1)
    with pytest.raises(StreamClosedError):
        await store.producer.load([HistoricEvent("Note-1", 3, Noted(text="x"))])
    with pytest.raises(ConflictError):
        await store.producer.load([HistoricEvent("Note-1", 7, Noted(text="x"))])


async def test_what_was_loaded_is_known_after_its_stream_was_closed(store: Store) -> None:
    events = history(streams=2, versions=2)
    await store.producer.load(events)
    await store.producer.close_stream("Note-1", expected_version=2)
    assert await store.producer.load(events) == Loaded(0, 4)


@pytest.mark.parametrize("version", ["1", 1.0, None, True])
async def test_a_version_is_a_whole_number(store: Store, version: object) -> None:
    with pytest.raises(InvalidInputError, match="whole number"):
        await store.producer.load([HistoricEvent("Note-1", version, Noted(text="x"))])  # type: ignore[arg-type] # on purpose
