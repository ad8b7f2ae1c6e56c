"""Appends and reads in any order, judged by a plain model: a dict of lists."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.models import Noted
from support.stores import Store

from gatelog.core.domain import ANY, NO_STREAM, STREAM_EXISTS, ExpectedVersion
from gatelog.core.errors import ConflictError, EventIdReusedError, StreamClosedError, StreamNotFoundError
from gatelog.core.settings import Settings
from gatelog.producer import Producer, StreamAppend
from gatelog.reader import Reader
from gatelog.schemas import NewEvent, StreamClosed
from gatelog.testing import MemoryStore

T = TypeVar("T")
STREAMS = st.sampled_from(["A-1", "A-2", "B-1"])
EXPECTED = st.sampled_from([ANY, NO_STREAM, STREAM_EXISTS]) | st.integers(0, 6)
COUNTS = st.integers(1, 3)


def fits(expected: ExpectedVersion, version: int) -> bool:
    return expected is ANY or (
        version > 0 if expected is STREAM_EXISTS else version == (0 if expected is NO_STREAM else expected)
    )


class Appends(RuleBasedStateMachine):
    """The store beside its model."""

    store: ClassVar[Store]
    run: ClassVar[asyncio.Runner]
    examples: ClassVar[Iterator[int]] = iter(range(10**9))

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[str, list[NewEvent]] = {}
        self.closed: set[str] = set()
        self.done: list[tuple[str, int, list[NewEvent]]] = []  # stream, first version, events

    @initialize()
    def fresh(self) -> None:
        """Streams of its own for each example: one store serves all of them."""
        self.prefix = f"x{next(self.examples)}"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run.run(work)

    def name(self, stream: str) -> str:
        category, _, key = stream.partition("-")
        return f"{category}-{self.prefix}.{key}"

    @rule(stream=STREAMS, count=COUNTS, expected=EXPECTED)
    def append(self, stream: str, count: int, expected: ExpectedVersion) -> None:
        events = [NewEvent(Noted(text=f"{n}")) for n in range(count)]
        before = self.streams.get(stream, [])
        work = self.store.producer.append(self.name(stream), events, expected_version=expected)
        if stream in self.closed:
            with pytest.raises(StreamClosedError):
                self.do(work)
        elif not fits(expected, len(before)):
            with pytest.raises(ConflictError) as conflict:
                self.do(work)
            assert conflict.value.actual == len(before)
        else:
            done = self.do(work)
            assert (done.first_version, done.version, done.known) == (len(before) + 1, len(before) + count, False)
            self.done.append((stream, done.first_version, events))
            self.streams[stream] = before + events

    @rule(one=STREAMS, other=STREAMS, expected=st.tuples(EXPECTED, EXPECTED))
    def append_to_two(self, one: str, other: str, expected: tuple[ExpectedVersion, ExpectedVersion]) -> None:
        if one == other:
            return
        events = {stream: [NewEvent(Noted(text=stream))] for stream in (one, other)}
        appends = [
            StreamAppend(self.name(stream), events[stream], each)
            for stream, each in zip((one, other), expected, strict=True)
        ]
        versions = {stream: len(self.streams.get(stream, [])) for stream in events}
        work = self.store.producer.append_streams(appends)
        if self.closed & events.keys() or not all(map(fits, expected, versions.values())):
            with pytest.raises((ConflictError, StreamClosedError)):
                self.do(work)
            return
        assert [done.version for done in self.do(work)] == [version + 1 for version in versions.values()]
        for stream, new in events.items():
            self.streams[stream] = self.streams.get(stream, []) + new

    @rule(pick=st.integers(0, 100), expected=EXPECTED)
    def retry(self, pick: int, expected: ExpectedVersion) -> None:
        """Repeating an append answers as the first time, whatever it expects now and whether or not it is closed."""
        if not self.done:
            return
        stream, first, events = self.done[pick % len(self.done)]
        again = self.do(self.store.producer.append(self.name(stream), events, expected_version=expected))
        assert (again.first_version, again.version, again.known) == (first, first + len(events) - 1, True)

    @rule(pick=st.integers(0, 100), stream=STREAMS)
    def reuse(self, pick: int, stream: str) -> None:
        """An id that is stored goes nowhere else."""
        if not self.done:
            return
        where, _, events = self.done[pick % len(self.done)]
        new = [events[0], NewEvent(Noted(text="new"))] if where == stream else [events[0]]
        if new == events:
            return
        with pytest.raises(EventIdReusedError):
            self.do(self.store.producer.append(self.name(stream), new, expected_version=ANY))

    @rule(stream=STREAMS)
    def close(self, stream: str) -> None:
        work = self.store.producer.close_stream(self.name(stream), expected_version=STREAM_EXISTS)
        if stream in self.closed:
            with pytest.raises(StreamClosedError):
                self.do(work)
        elif stream not in self.streams:
            with pytest.raises(ConflictError):
                self.do(work)
        else:
            done = self.do(work)
            self.closed.add(stream)
            last = NewEvent(StreamClosed(reason=""), id=done.event_ids[0])
            self.streams[stream] = [*self.streams[stream], last]

    @rule(
        stream=STREAMS,
        lowest=st.integers(1, 6),
        highest=st.integers(1, 9),
        limit=st.integers(0, 5),
        back=st.booleans(),
    )
    def read(self, stream: str, lowest: int, highest: int, limit: int, back: bool) -> None:
        expected = [event.id for event in self.streams.get(stream, [])][lowest - 1 : highest]
        expected = (expected[::-1] if back else expected)[:limit]

        async def ids() -> list[object]:
            found = self.store.reader.stream(
                self.name(stream), from_version=lowest, to_version=highest, limit=limit, backward=back
            )
            return [event.id async for event in found]

        if stream not in self.streams and limit and lowest <= highest:
            with pytest.raises(StreamNotFoundError):
                self.do(ids())
        else:
            assert self.do(ids()) == expected

    @invariant()
    def versions_are_those_of_the_model(self) -> None:
        for stream in ("A-1", "A-2", "B-1"):
            if hasattr(self, "prefix"):
                version = self.do(self.store.reader.version(self.name(stream)))
                assert version == len(self.streams.get(stream, []))


def judge(store: Store, run: asyncio.Runner, examples: int) -> None:
    Appends.store, Appends.run = store, run
    run_state_machine_as_test(
        Appends,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_the_store_in_memory_does_what_the_model_does() -> None:
    with asyncio.Runner() as run:
        memory = MemoryStore()
        judge(Store(memory.producer, memory.reader), run, examples=100)


def test_the_store_in_postgres_does_what_the_model_does(settings: Settings) -> None:
    with asyncio.Runner() as run:
        producing, reading = Producer.connect(settings), Reader.connect(settings)
        store = Store(run.run(producing.__aenter__()), run.run(reading.__aenter__()))
        try:
            judge(store, run, examples=60)
        finally:
            run.run(reading.__aexit__(None, None, None))
            run.run(producing.__aexit__(None, None, None))
