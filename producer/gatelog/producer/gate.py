"""What the gate is asked and what it answers: in Postgres, or in memory for users' own tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, assert_never
from uuid import UUID

from gatelog.core.domain import ExpectedVersion, StreamState
from gatelog.core.errors import GatelogError, InvalidInputError
from gatelog.core.postgres import Connection

EXPECT_ANY: Final = -1
EXPECT_EXISTS: Final = -2
VERSION_MAX: Final = 2**63 - 1


class EncodedEvent(NamedTuple):
    """An event as the outbox takes it, in the order in which the gate's statements take its parts."""

    id: UUID
    type: str
    schema_id: int
    data: bytes
    correlation_id: UUID | None
    causation_id: UUID | None
    traceparent: str | None
    metadata: str | None


class StreamWrite(NamedTuple):
    """The part of an append that goes to one stream. ``closes``: the stream takes no events after these."""

    stream: str
    expected: ExpectedVersion
    events: tuple[EncodedEvent, ...]
    closes: bool = False

    @property
    def code(self) -> int:
        """The number by which SQL knows what is expected: a version, or -1 for any, -2 for an existing stream."""
        match self.expected:
            case StreamState.NO_STREAM:
                return 0
            case StreamState.STREAM_EXISTS:
                return EXPECT_EXISTS
            case StreamState.ANY:
                return EXPECT_ANY
            case int():
                return self.expected
            case _:
                assert_never(self.expected)


@dataclass(frozen=True, slots=True)
class Appended:
    """An accepted append to one stream: its events have the versions ``first_version`` to ``version``.

    ``known``: it was stored before; this answer is that of the first time.
    """

    stream: str
    first_version: int
    version: int
    event_ids: tuple[UUID, ...]
    known: bool


class HistoricWrite(NamedTuple):
    """An encoded event and its place in its stream, flat: one object each, which COPY takes as it is."""

    stream: str
    version: int
    recorded_at: datetime
    id: UUID
    type: str
    schema_id: int
    data: bytes
    correlation_id: UUID | None
    causation_id: UUID | None
    traceparent: str | None
    metadata: str | None


class Later(Enum):
    """A transaction outside holds the stream's row: ask again later, and do not keep others waiting."""

    LATER = "later"


LATER: Final = Later.LATER

Writes: TypeAlias = tuple[StreamWrite, ...]  # one append
APPEND_BYTES_MAX: Final = 256 * 1024 * 1024  # of payload: a statement of a gigabyte ends the connection
Verdict: TypeAlias = list[Appended] | GatelogError | Literal[Later.LATER]


class Gate(Protocol):
    """Decides appends."""

    async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
        """Decide each append of a batch for itself, and store what is accepted.

        Within a batch, a stream has several writes only if all of them expect ``ANY``. ``patient``: wait a
        while for a stream that is locked from outside.

        Raises:
            PostgresUnavailableError: no answer in time; whatever happened, happened to whole appends.
        """
        ...

    async def append_within(self, connection: Connection, writes: Writes) -> list[Appended]:
        """Decide one append inside the transaction that is open on a caller's connection.

        Raises:
            GatelogError: it was refused; the transaction is as before.
        """
        ...

    async def load(self, chunk: Sequence[HistoricWrite]) -> int:
        """Store a chunk of history, all or nothing, and return how many of its events were stored before.

        Raises:
            GatelogError: it was refused; nothing was changed.
        """
        ...

    async def unpublished(self, event_ids: Sequence[UUID]) -> int:
        """Return how many of these events, all of them accepted, Kafka is not known to hold yet."""
        ...


def bytes_of(writes: Writes) -> int:
    """Return how much payload an append has."""
    return sum([len(event.data) for write in writes for event in write.events])


def check_bytes(writes: Writes) -> None:
    """Hold the bound of one append's payload.

    Raises:
        InvalidInputError: it is over ``APPEND_BYTES_MAX``.
    """
    if (size := bytes_of(writes)) > APPEND_BYTES_MAX:
        raise InvalidInputError(
            f"Append to {writes[0].stream!r} has {size:,} bytes of payload; {APPEND_BYTES_MAX:,} are possible."
        )


def check_expected(stream: str, expected: ExpectedVersion) -> ExpectedVersion:
    """Return ``expected`` if it is one of the four kinds.

    Raises:
        InvalidInputError: a negative number, one that no stream can reach, or something else.
    """
    if isinstance(expected, StreamState) or (type(expected) is int and 0 <= expected <= VERSION_MAX):
        return expected
    raise InvalidInputError(
        f"Append to {stream!r}: expected_version {expected!r} is none of NO_STREAM, STREAM_EXISTS, ANY, "
        "or the number of events that the stream has."
    )
