"""The gate in memory: its rules in plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from gatelog.core.errors import (
    ConflictError,
    EventIdReusedError,
    GatelogError,
    InvalidInputError,
    StreamClosedError,
)
from gatelog.core.postgres import Connection
from gatelog.core.settings import Settings
from gatelog.producer.gate import (
    EXPECT_ANY,
    EXPECT_EXISTS,
    Appended,
    EncodedEvent,
    HistoricWrite,
    StreamWrite,
    Verdict,
    Writes,
)
from gatelog.producer.loading import check_chunk


@dataclass(frozen=True, slots=True)
class Stored:
    """An event in the log; its position is its place there."""

    stream: str
    version: int
    position: int
    recorded_at: datetime
    event: EncodedEvent


@dataclass
class Log:
    """Everything that was accepted."""

    events: list[Stored] = field(default_factory=list)
    by_id: dict[UUID, Stored] = field(default_factory=dict)
    streams: dict[str, list[Stored]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def version(self, stream: str) -> int:
        """Return how many events a stream has."""
        return len(self.streams.get(stream, ()))

    def add(self, stream: str, event: EncodedEvent, recorded_at: datetime | None = None) -> None:
        """Store an event as the next of its stream."""
        when = recorded_at or datetime.now(UTC)
        stored = Stored(stream, self.version(stream) + 1, len(self.events) + 1, when, event)
        self.events.append(stored)
        self.by_id[event.id] = stored
        self.streams.setdefault(stream, []).append(stored)


class MemoryGate:
    """See ``gatelog.producer.gate.Gate``."""

    def __init__(self, settings: Settings) -> None:
        """Start with an empty log."""
        self.log: Final = Log()
        self._settings = settings

    async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
        """See ``Gate``."""
        return [self._decide(writes) for writes in batch]

    async def append_within(self, connection: Connection, writes: Writes) -> list[Appended]:
        """Refuse: there is no transaction to join."""
        raise InvalidInputError("A store in memory cannot take part in a Postgres transaction.")

    async def unpublished(self, event_ids: Sequence[UUID]) -> int:
        """See ``Gate``: what is appended is published."""
        return 0

    async def load(self, chunk: Sequence[HistoricWrite]) -> int:
        """See ``Gate``."""
        check_chunk(chunk)
        known = [write for write in chunk if write.id in self.log.by_id]
        for write in known:
            stored = self.log.by_id[write.id]
            if (stored.stream, stored.version) != (write.stream, write.version):
                raise EventIdReusedError(write.stream, len(known), len(chunk), write.id)
        left = [write for write in chunk if write.id not in self.log.by_id]
        for stream, (before, _) in check_chunk(left).items():
            if self.log.version(stream) != before:
                raise ConflictError(stream, before, self.log.version(stream))
            if stream in self.log.closed:
                raise StreamClosedError(stream, before)
        for write in left:
            self.log.add(write.stream, EncodedEvent(*write[3:]), write.recorded_at)
        return len(known)

    def _decide(self, writes: Writes) -> Verdict:
        known = [self._known(write) for write in writes]
        if all(answer is not None for answer in known):
            return [answer for answer in known if answer is not None]
        for write in writes:
            if stored := [event.id for event in write.events if event.id in self.log.by_id]:
                return EventIdReusedError(write.stream, len(stored), len(write.events), stored[0])
        for write in writes:
            if (refusal := self._refusal(write)) is not None:
                return refusal
        return [self._store(write) for write in writes]

    def _known(self, write: StreamWrite) -> Appended | None:
        """The first answer, if exactly this was stored before."""
        stored = [self.log.by_id.get(event.id) for event in write.events]
        first = stored[0]
        if first is None:
            return None
        for nth, each in enumerate(stored):
            if each is None or (each.stream, each.version) != (write.stream, first.version + nth):
                return None
        return _appended(write, first.version, known=True)

    def _refusal(self, write: StreamWrite) -> GatelogError | None:
        version = self.log.version(write.stream)
        if write.stream in self.log.closed:
            return StreamClosedError(write.stream, version)
        fits = write.code in (EXPECT_ANY, version) or (write.code == EXPECT_EXISTS and version > 0)
        return None if fits else ConflictError(write.stream, write.expected, version)

    def _store(self, write: StreamWrite) -> Appended:
        first = self.log.version(write.stream) + 1
        for event in write.events:
            self.log.add(write.stream, event)
        if write.closes:
            self.log.closed.add(write.stream)
        return _appended(write, first, known=False)


def _appended(write: StreamWrite, first: int, *, known: bool) -> Appended:
    ids = tuple(event.id for event in write.events)
    return Appended(write.stream, first, first + len(ids) - 1, ids, known)
