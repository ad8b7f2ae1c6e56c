"""What every store does, the real one and the one in memory. Nothing here waits for relay or indexer."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from uuid import uuid4

import pytest
from support.models import Noted
from support.stores import Store

from gatelog.core.domain import ExpectedVersion
from gatelog.core.errors import (
    ConflictError,
    EventIdReusedError,
    GatelogError,
    InvalidEventError,
    InvalidInputError,
    StreamClosedError,
    StreamNotFoundError,
)
from gatelog.producer import ANY, NO_STREAM, STREAM_EXISTS, StreamAppend, gate, retry_on_conflict
from gatelog.schemas import NewEvent, StreamClosed


@pytest.mark.parametrize(
    ("length", "expected", "actual"),
    [
        (0, 0, None),
        (0, NO_STREAM, None),
        (0, ANY, None),
        (0, STREAM_EXISTS, 0),
        (0, 1, 0),
        (2, 2, None),
        (2, ANY, None),
        (2, STREAM_EXISTS, None),
        (2, NO_STREAM, 2),
        (2, 0, 2),
        (2, 1, 2),
        (2, 3, 2),
    ],
)
async def test_expected_versions(store: Store, length: int, expected: ExpectedVersion, actual: int | None) -> None:
    before = [str(number) for number in range(length)]
    if before:
        await store.append("Note-1", *before)
    if actual is None:
        assert await store.append("Note-1", "a", "b", expected=expected) == length + 2
        assert await store.texts("Note-1") == [*before, "a", "b"]
        return
    with pytest.raises(ConflictError) as conflict:
        await store.append("Note-1", "a", expected=expected)
    assert (conflict.value.stream, conflict.value.expected, conflict.value.actual) == ("Note-1", expected, actual)
    assert await store.reader.version("Note-1") == length


@pytest.mark.parametrize("expected", [0, NO_STREAM, ANY, 3, STREAM_EXISTS])
@pytest.mark.parametrize("count", [1, 3])
async def test_a_retry_answers_as_the_first_time(store: Store, expected: ExpectedVersion, count: int) -> None:
    if expected in (3, STREAM_EXISTS):
        await store.append("Note-1", "a", "b", "c")
    events = [NewEvent(Noted(text=str(number))) for number in range(count)]
    first = await store.producer.append("Note-1", events, expected_version=expected)
    await store.append("Note-1", "later")
    again = await store.producer.append("Note-1", events, expected_version=expected)
    assert (first.known, again.known) == (False, True)
    assert (again.first_version, again.version, again.event_ids) == (
        first.first_version,
        first.version,
        first.event_ids,
    )
    assert await store.reader.version("Note-1") == first.version + 1


async def test_an_id_is_never_stored_twice(store: Store) -> None:
    one, two = (NewEvent(Noted(text=text)) for text in ("one", "two"))
    await store.producer.append("Note-1", [one], expected_version=ANY)
    for stream, events in [("Note-2", [one]), ("Note-1", [one, two]), ("Note-1", [two, one])]:
        with pytest.raises(EventIdReusedError) as reused:
            await store.producer.append(stream, events, expected_version=ANY)
        assert reused.value.stream == stream
    with pytest.raises(InvalidInputError, match="twice"):
        await store.producer.append("Note-1", [two, two], expected_version=ANY)
    assert await store.texts("Note-1") == ["one"]
    assert await store.reader.version("Note-2") == 0


async def test_the_same_id_twice_at_once(store: Store) -> None:
    event = NewEvent(Noted(text="one"))
    done = await asyncio.gather(
        *(store.producer.append(f"Note-{n % 2}", [event], expected_version=ANY) for n in range(10)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) and not answer.known for answer in done) == 1
    assert all(isinstance(answer, EventIdReusedError) for answer in done if isinstance(answer, BaseException))
    assert await store.reader.version("Note-0") + await store.reader.version("Note-1") == 1


async def test_several_streams_all_or_nothing(store: Store) -> None:
    await store.append("Account-1", "opened")

    def transfer(expected: int) -> list[StreamAppend]:
        return [
            StreamAppend("Account-1", [Noted(text="out")], expected),
            StreamAppend("Account-2", [Noted(text="in"), Noted(text="thanks")], NO_STREAM),
        ]

    with pytest.raises(ConflictError, match="Account-1"):
        await store.producer.append_streams(transfer(expected=2))
    assert await store.reader.version("Account-2") == 0
    done = await store.producer.append_streams(transfer(expected=1))
    assert [(each.stream, each.first_version, each.version) for each in done] == [
        ("Account-1", 2, 2),
        ("Account-2", 1, 2),
    ]
    with pytest.raises(ConflictError, match="Account-"):
        await store.producer.append_streams(transfer(expected=2))
    assert await store.texts("Account-1") == ["opened", "out"]
    assert await store.texts("Account-2") == ["in", "thanks"]


async def test_several_streams_retried(store: Store) -> None:
    first, second = NewEvent(Noted(text="1")), NewEvent(Noted(text="2"))
    appends = [StreamAppend("Note-1", [first], NO_STREAM), StreamAppend("Note-2", [second], ANY)]
    done = await store.producer.append_streams(appends)
    again = await store.producer.append_streams(appends)
    assert [(each.version, each.known) for each in again] == [(each.version, True) for each in done]
    half = [StreamAppend("Note-1", [first], ANY), StreamAppend("Note-3", [Noted(text="new")], ANY)]
    with pytest.raises(EventIdReusedError):
        await store.producer.append_streams(half)
    assert await store.reader.version("Note-3") == 0


@pytest.mark.parametrize("streams", [[], ["Note-1", "Note-1"]])
async def test_several_streams_are_several_different_ones(store: Store, streams: list[str]) -> None:
    with pytest.raises(InvalidInputError):
        await store.producer.append_streams([StreamAppend(s, [Noted(text="x")], ANY) for s in streams])


async def test_several_streams_share_the_bound_of_an_append(store: Store) -> None:
    half = [[Noted(text="x")] * 6_000, [Noted(text="x")] * 4_001]
    with pytest.raises(InvalidInputError, match="has 10,001 events; 10,000 are allowed"):
        await store.producer.append_streams([StreamAppend(f"Note-{n}", events, ANY) for n, events in enumerate(half)])


async def test_an_append_has_a_bound_of_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "APPEND_BYTES_MAX", 50)
    assert await store.append("Note-1", "x" * 20, "x" * 20) == 2
    with pytest.raises(InvalidInputError, match="has 63 bytes of payload; 50 are possible"):
        await store.append("Note-1", "x" * 20, "x" * 20, "x" * 20)


NOT_UUIDS = ["nope", "0197b6b4-8f5c-7b1e-9a52-0d6f3c2e1a47", 5, b"x" * 16]


@pytest.mark.parametrize("field", ["id", "correlation_id", "causation_id"])
@pytest.mark.parametrize("value", NOT_UUIDS)
async def test_ids_are_uuids(store: Store, field: str, value: object) -> None:
    """Refused at the door: text that looks like a UUID would slip past the search for ids that are there twice."""
    event = replace(NewEvent(Noted(text="x")), **{field: value})  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidEventError, match="is no UUID"):
        await store.producer.append("Note-1", [event], expected_version=ANY)


@pytest.mark.parametrize(
    ("field", "value"), [("traceparent", 5), ("traceparent", b"00-x"), ("metadata", "abc"), ("metadata", 5)]
)
async def test_an_envelope_of_other_types_is_refused(store: Store, field: str, value: object) -> None:
    event = replace(NewEvent(Noted(text="x")), **{field: value})  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidEventError):
        await store.producer.append("Note-1", [event], expected_version=ANY)


@pytest.mark.parametrize("events", [[{"text": "x"}], [Noted], Noted(text="x")])
async def test_what_is_no_event_is_refused(store: Store, events: list[Noted]) -> None:
    with pytest.raises(InvalidInputError, match="no event"):
        await store.producer.append("Note-1", events, expected_version=ANY)


@pytest.mark.parametrize("expected", [2**31, 2**63 - 1])
async def test_no_version_is_too_high_to_be_compared(store: Store, expected: int) -> None:
    with pytest.raises(ConflictError):
        await store.append("Note-1", "x", expected=expected)


async def test_a_version_that_no_stream_reaches_is_refused_at_the_door(store: Store) -> None:
    with pytest.raises(InvalidInputError):
        await store.append("Note-1", "x", expected=2**63)


async def test_a_closed_stream_takes_no_more_and_stays_readable(store: Store) -> None:
    await store.append("Note-1", "a")
    with pytest.raises(ConflictError):
        await store.producer.close_stream("Note-1", expected_version=5)
    assert (await store.producer.close_stream("Note-1", expected_version=1, reason="done")).version == 2
    for attempt in (store.append("Note-1", "b"), store.producer.close_stream("Note-1", expected_version=ANY)):
        with pytest.raises(StreamClosedError) as closed:
            await attempt
        assert (closed.value.stream, closed.value.version) == ("Note-1", 2)
    events = [event.data async for event in store.reader.stream("Note-1")]
    assert events == [Noted(text="a"), StreamClosed(reason="done")]


async def test_concurrent_appends_keep_their_order_and_lose_nothing(store: Store) -> None:
    """All of them at once: to one stream in the order of sending, whatever the others get."""
    appends: list[Awaitable[object]] = [store.append("Note-hot", str(number)) for number in range(100)]
    appends += [
        store.append("Note-hot", "x", expected=NO_STREAM),
        store.append("Note-\0", "x"),
        store.producer.append("Note-hot", [], expected_version=ANY),
    ]
    appends += [store.append(f"Note-{number}", "x", expected=NO_STREAM) for number in range(100)]
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert answers[:100] == list(range(1, 101))
    assert all(isinstance(answer, GatelogError) for answer in answers[100:103])
    assert answers[103:] == [1] * 100
    assert await store.texts("Note-hot") == [str(number) for number in range(100)]


async def test_retry_on_conflict_decides_again(store: Store) -> None:
    """Twenty deciders each add one to the last number of a stream: none is lost."""
    await store.append("Count-1", "0")

    async def increment() -> None:
        async def decide() -> None:
            *_, last = await store.texts("Count-1")
            version = int(last) + 1
            await store.append("Count-1", str(int(last) + 1), expected=version)

        await retry_on_conflict(decide, attempts_max=100)

    await asyncio.gather(*(increment() for _ in range(20)))
    assert await store.texts("Count-1") == [str(number) for number in range(21)]


async def test_retry_on_conflict_has_a_bound(store: Store) -> None:
    attempts = 0

    async def decide() -> None:
        nonlocal attempts
        attempts += 1
        await store.append("Note-1", "x", expected=7)

    with pytest.raises(ConflictError):
        await retry_on_conflict(decide, attempts_max=3)
    assert attempts == 3


async def test_envelope(store: Store) -> None:
    event = NewEvent(
        Noted(text="é\0"),
        id=uuid4(),
        correlation_id=uuid4(),
        causation_id=uuid4(),
        metadata={"user": "ann", "nested": [1, {"a": None}]},
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    await store.producer.append("Note-1", [event], expected_version=ANY)
    (found,) = [each async for each in store.reader.stream("Note-1")]
    assert (found.id, found.correlation_id, found.causation_id) == (
        event.id,
        event.correlation_id,
        event.causation_id,
    )
    assert (found.metadata, found.traceparent, found.data) == (event.metadata, event.traceparent, event.data)
    assert (found.stream, found.version, found.type, found.category) == ("Note-1", 1, "Noted", "Note")


async def test_reads(store: Store) -> None:
    await store.append("Note-1", *"abcdef")

    async def read(**bounds: int | bool) -> str:
        found = store.reader.stream("Note-1", **bounds)  # type: ignore[arg-type] # each bound has its own type
        return "".join([event.data.text async for event in found if isinstance(event.data, Noted)])

    assert await read() == "abcdef"
    assert await read(backward=True) == "fedcba"
    assert await read(from_version=3) == "cdef"
    assert await read(to_version=2) == "ab"
    assert await read(from_version=2, to_version=4, limit=2) == "bc"
    assert await read(from_version=2, to_version=4, limit=2, backward=True) == "dc"
    assert await read(from_version=9) == ""
    assert await read(limit=0) == ""
    assert await read(to_version=0) == await read(to_version=-1, backward=True) == ""
    assert await read(from_version=0) == await read(from_version=-3) == await read(from_version=-(2**70)) == "abcdef"
    assert await read(to_version=2**64) == "abcdef"
    assert await read(from_version=2**64) == ""
    for bad in ({"from_version": "1"}, {"to_version": 1.5}, {"limit": "3"}, {"limit": -1}):
        with pytest.raises(InvalidInputError, match="must"):
            await read(**bad)
    with pytest.raises(StreamNotFoundError):
        [event async for event in store.reader.stream("Note-2")]
