"""Micro-batching against a plain model: a gate in memory that is slow, puts streams off, and fails, at random."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import Noted

from gatelog.core.domain import ANY, ExpectedVersion
from gatelog.core.errors import GatelogError, PostgresUnavailableError
from gatelog.core.postgres import Connection
from gatelog.producer import batcher
from gatelog.producer.batcher import Batcher
from gatelog.producer.gate import LATER, Appended, EncodedEvent, HistoricWrite, StreamWrite, Verdict, Writes
from gatelog.schemas import NewEvent

BATCHES_MAX = 3
BATCH_EVENTS_MAX = 5


class CapriciousGate:
    """Stores appends in lists, and checks what a batcher promises of each batch."""

    def __init__(self, seed: int, *, fails: float = 0.0, later: float = 0.0) -> None:
        self.streams: dict[str, list[EncodedEvent]] = {}
        self.broken: list[str] = []
        self._random = random.Random(seed)
        self._fails = fails
        self._later = later
        self._held: Counter[str] = Counter()
        self._in_flight = 0

    async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
        self._check(batch, patient=patient)
        streams = {write.stream for writes in batch for write in writes}
        self._held.update(streams)
        self._in_flight += 1
        for _ in range(self._random.randint(0, 4)):
            await asyncio.sleep(0)
        self._in_flight -= 1
        self._held.subtract(streams)
        if self._random.random() < self._fails:
            raise PostgresUnavailableError("gone")
        put_off: set[str] = set()
        verdicts: list[Verdict] = []
        for writes in batch:
            if any(w.stream in put_off for w in writes) or self._random.random() < self._later:
                put_off.update(write.stream for write in writes)
                verdicts.append(LATER)
            else:
                verdicts.append([self._store(write) for write in writes])
        return verdicts

    async def append_within(self, connection: Connection, writes: Writes) -> list[Appended]:
        raise NotImplementedError

    async def load(self, chunk: Sequence[HistoricWrite]) -> int:
        raise NotImplementedError

    async def unpublished(self, event_ids: Sequence[UUID]) -> int:
        raise NotImplementedError

    def _store(self, write: StreamWrite) -> Appended:
        stored = self.streams.setdefault(write.stream, [])
        first = len(stored) + 1
        stored.extend(write.events)
        return Appended(write.stream, first, len(stored), tuple(event.id for event in write.events), known=False)

    def _check(self, batch: Sequence[Writes], *, patient: bool) -> None:
        events = sum(len(write.events) for writes in batch for write in writes)
        writers = Counter(write.stream for writes in batch for write in writes)
        shared = {w.stream for writes in batch for w in writes if w.expected is ANY and len(writes) == 1}
        self._expect(bool(batch), "an empty batch")
        self._expect(self._in_flight < BATCHES_MAX, "too many batches at once")
        self._expect(events <= BATCH_EVENTS_MAX or len(batch) == 1, "a batch over its bound")
        self._expect(patient or len(batch) == 1, "a stream that was put off holds up others")
        self._expect(not any(self._held[stream] for stream in writers), "a stream in two batches at once")
        for stream, count in writers.items():
            self._expect(count == 1 or stream in shared, "two writes that cannot be judged together")

    def _expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)


def write(stream: str, events: int = 1, expected: ExpectedVersion = ANY) -> StreamWrite:
    made = tuple(
        EncodedEvent(NewEvent(Noted(text="")).id, "Noted", 1, b"", None, None, None, None) for _ in range(events)
    )
    return StreamWrite(stream, expected, made)


WRITE = st.builds(write, st.sampled_from(["A-1", "A-2", "A-3"]), st.integers(1, 4), st.sampled_from([ANY, 0]))
APPENDS = st.lists(st.lists(WRITE, min_size=1, max_size=3, unique_by=lambda w: w.stream).map(tuple), max_size=40)


@pytest.fixture(autouse=True, scope="module")
def _soon() -> Iterator[None]:
    """What is put off comes again at once: thousands of examples do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batcher, "LATER_S", 0.0)
        yield


@settings(deadline=None)
@given(APPENDS, st.integers(), st.sampled_from([0.0, 0.2]))
async def test_every_append_gets_its_own_answer_in_order(appends: list[Writes], seed: int, later: float) -> None:
    gate = CapriciousGate(seed, later=later)
    tried = Batcher(gate, batches_max=BATCHES_MAX, batch_events_max=BATCH_EVENTS_MAX, timeout_s=30)
    answers = []
    for number, writes in enumerate(appends):
        answers.append(tried.submit(writes))
        if number % 3 == seed % 3:
            await asyncio.sleep(0)
    for writes, answer in zip(appends, answers, strict=True):
        for each, appended in zip(writes, await answer, strict=True):
            ids = tuple(event.id for event in each.events)
            stored = tuple(event.id for event in gate.streams[each.stream])
            assert appended.event_ids == ids == stored[appended.first_version - 1 : appended.version]
    for stream, events in gate.streams.items():
        sent = [event.id for writes in appends for each in writes if each.stream == stream for event in each.events]
        assert [event.id for event in events] == sent, "a stream takes appends in the order of sending"
    await tried.drain()
    assert gate.broken == []


@given(APPENDS, st.integers())
async def test_a_failed_batch_fails_its_own_appends_only(appends: list[Writes], seed: int) -> None:
    gate = CapriciousGate(seed, fails=0.3)
    tried = Batcher(gate, batches_max=BATCHES_MAX, batch_events_max=BATCH_EVENTS_MAX, timeout_s=30)
    answers = await asyncio.gather(*map(tried.submit, appends), return_exceptions=True)
    stored = {event.id for events in gate.streams.values() for event in events}
    for writes, answer in zip(appends, answers, strict=True):
        assert isinstance(answer, PostgresUnavailableError | list)
        there = [event.id in stored for each in writes for event in each.events]
        assert all(there) if isinstance(answer, list) else not any(there)
    assert gate.broken == []


async def test_a_cancelled_append_is_withdrawn_and_its_neighbours_are_not() -> None:
    gate = CapriciousGate(1)
    tried = Batcher(gate, batches_max=1, batch_events_max=BATCH_EVENTS_MAX, timeout_s=30)
    first, second, third = (tried.submit((write("A-1"),)) for _ in range(3))
    second.cancel()
    assert [(await answer)[0].version for answer in (first, third)] == [1, 2]
    await tried.drain()
    assert len(gate.streams["A-1"]) == 2


async def test_callers_get_their_timeout_in_a_batch_that_hangs() -> None:
    class HangingGate(CapriciousGate):
        async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
            if any(each.stream == "A-hangs" for writes in batch for each in writes):
                await hangs.wait()
            return await super().append(batch, patient=patient)

    hangs = asyncio.Event()
    tried = Batcher(HangingGate(1), batches_max=2, batch_events_max=1, timeout_s=0.05)
    late = tried.submit((write("A-hangs"),))
    (done,) = await tried.submit((write("A-2"),))
    assert done.version == 1
    with pytest.raises(TimeoutError):
        await late
    hangs.set()
    await tried.drain()


async def test_a_batch_has_a_bound_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement of a gigabyte would end the connection, for all who are in it, again and again."""
    sizes: list[list[int]] = []

    class WeighingGate(CapriciousGate):
        async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
            sizes.append([len(event.data) for writes in batch for each in writes for event in each.events])
            return await super().append(batch, patient=patient)

    monkeypatch.setattr(batcher, "BATCH_BYTES_MAX", 10)
    tried = Batcher(WeighingGate(1), batches_max=1, batch_events_max=100, timeout_s=30)
    heavy = [write(f"A-{number}") for number in range(9)]
    weights = [4, 4, 4, 11, 1, 1, 8, 1, 9]
    appends = [
        each._replace(events=(each.events[0]._replace(data=b"x" * weight),))
        for each, weight in zip(heavy, weights, strict=True)
    ]
    await asyncio.gather(*(tried.submit((append,)) for append in appends))
    assert all(sum(batch) <= 10 or len(batch) == 1 for batch in sizes), sizes
    assert sum(map(len, sizes)) == 9


async def test_an_error_that_is_no_gatelog_error_reaches_its_callers() -> None:
    class BrokenGate(CapriciousGate):
        async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
            raise ZeroDivisionError

    tried = Batcher(BrokenGate(1), batches_max=1, batch_events_max=1, timeout_s=30)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as error:
            await tried.submit((write("A-1"),))
        assert not isinstance(error.value, GatelogError)
