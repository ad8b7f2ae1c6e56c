"""The gate, seen from the client: a batch of appends as one statement, and each append's own result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never
from uuid import UUID

import asyncpg

from gatelog.core import postgres
from gatelog.core.domain import ExpectedVersion, StreamState
from gatelog.core.errors import (
    BacklogFullError,
    ConflictError,
    EventIdReusedError,
    GatelogError,
    InvalidInputError,
)

_ANY: Final = -1
_STREAM_EXISTS: Final = -2


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """An event as the outbox takes it."""

    id: UUID
    type: str
    schema_id: int
    data: bytes
    correlation_id: UUID | None
    causation_id: UUID | None
    traceparent: str | None
    metadata: str | None


@dataclass(frozen=True, slots=True)
class StreamWrite:
    """The part of an append that goes to one stream."""

    stream: str
    expected: ExpectedVersion
    events: tuple[EncodedEvent, ...]


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


def expected_code(expected: ExpectedVersion) -> int:
    """Return the number by which the SQL function knows an expected version.

    Raises:
        InvalidInputError: a negative number.
    """
    match expected:
        case StreamState.NO_STREAM:
            return 0
        case StreamState.STREAM_EXISTS:
            return _STREAM_EXISTS
        case StreamState.ANY:
            return _ANY
        case bool():
            raise InvalidInputError(f"Expected version {expected} is not a number.")
        case int():
            if expected < 0:
                raise InvalidInputError(f"Expected version {expected} is negative; versions are 1, 2, 3 …")
            return expected
        case _:
            assert_never(expected)


async def append(
    connection: postgres.Connection,
    sql: str,
    batch: Sequence[Sequence[StreamWrite]],
    backlog_max: int,
    store: str,
) -> list[list[Appended] | GatelogError]:
    """Run a batch of appends (each a sequence of writes) through the gate in one round trip.

    Within a batch, a stream may have several writes only if all of them expect ``ANY``.

    Returns:
        For each append its results, one a write, or the error to raise to its caller.

    Raises:
        asyncpg.PostgresError: the statement as a whole failed; nothing of the batch was stored.
    """
    rows = await connection.fetch(sql, *_arguments(batch), backlog_max)
    verdicts: list[list[Appended] | GatelogError] = []
    at = 0
    for writes in batch:
        answers = rows[at : at + len(writes)]
        at += len(writes)
        verdicts.append(_verdict(writes, answers, backlog_max, store))
    return verdicts


def _arguments(batch: Sequence[Sequence[StreamWrite]]) -> list[list[object] | None]:
    writes = [(number, write) for number, append in enumerate(batch) for write in append]
    events = [(place, event) for place, (_, write) in enumerate(writes, 1) for event in write.events]
    first, firsts = 1, []
    for _, write in writes:
        firsts.append(first)
        first += len(write.events)
    return [
        [number for number, _ in writes],
        [write.stream for _, write in writes],
        [expected_code(write.expected) for _, write in writes],
        [*firsts],
        [len(write.events) for _, write in writes],
        [place for place, _ in events],
        [event.id for _, event in events],
        [event.type for _, event in events],
        [event.schema_id for _, event in events],
        [event.data for _, event in events],
        _sparse([event.correlation_id for _, event in events]),
        _sparse([event.causation_id for _, event in events]),
        _sparse([event.traceparent for _, event in events]),
        _sparse([event.metadata for _, event in events]),
    ]


def _sparse(column: Sequence[object]) -> list[object] | None:
    """A column of nothing but None is not sent: unnest fills it up."""
    return None if all(value is None for value in column) else [*column]


def _verdict(
    writes: Sequence[StreamWrite], rows: Sequence[asyncpg.Record], backlog_max: int, store: str
) -> list[Appended] | GatelogError:
    for write, row in zip(writes, rows, strict=True):
        match row["verdict"]:
            case "conflict":
                return ConflictError(write.stream, write.expected, row["stream_version"])
            case "reused":
                return EventIdReusedError(write.stream, row["known"], len(write.events), write.events[0].id)
            case "backlog":
                return BacklogFullError(store, backlog_max)
    known = {row["verdict"] == "known" for row in rows}
    if len(known) > 1:
        write = writes[0]
        return EventIdReusedError(write.stream, 1, len(writes), write.events[0].id)
    return [
        Appended(
            write.stream,
            row["first_version"],
            row["first_version"] + len(write.events) - 1,
            tuple(event.id for event in write.events),
            row["verdict"] == "known",
        )
        for write, row in zip(writes, rows, strict=True)
    ]
