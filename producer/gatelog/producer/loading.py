"""Bulk import: events whose streams and versions are given, a chunk a transaction, by COPY.

A chunk that was loaded before is recognised by its ids, so that an import that was cut off is simply run again.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar

import asyncpg

from gatelog.core import postgres
from gatelog.core.domain import RECORDED_BEFORE, RECORDED_FROM
from gatelog.core.errors import (
    BacklogFullError,
    ConflictError,
    EventIdReusedError,
    InvalidInputError,
    StreamClosedError,
)
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.producer.gate import VERSION_MAX, HistoricWrite

T = TypeVar("T")

COLUMNS: Final = (  # of a HistoricWrite
    "stream",
    "version",
    "recorded_at",
    "event_id",
    "type",
    "schema_id",
    "data",
    "correlation_id",
    "causation_id",
    "traceparent",
    "metadata",
)


async def chunks(items: Iterable[T] | AsyncIterable[T], size: int) -> AsyncIterator[list[T]]:
    """Yield the items in lists of up to ``size``."""
    if not isinstance(items, AsyncIterable):
        iterator = iter(items)
        while chunk := list(islice(iterator, size)):
            yield chunk
        return
    chunk = []
    async for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def check_history(stream: str, version: int, recorded_at: datetime | None) -> None:
    """Hold what a load says of an event against what can be stored.

    Raises:
        InvalidInputError: the version is none that a stream can have, or the time is none that can be published.
    """
    if type(version) is not int or not 0 < version <= VERSION_MAX:
        raise InvalidInputError(
            f"Load into {stream!r}: version {version!r} is none: versions are whole numbers from 1 on."
        )
    if recorded_at is None:
        return
    if not isinstance(recorded_at, datetime) or recorded_at.utcoffset() is None:
        raise InvalidInputError(
            f"Load into {stream!r}: recorded_at of version {version} is {recorded_at!r}: no datetime with time zone."
        )
    if not RECORDED_FROM <= recorded_at < RECORDED_BEFORE:
        raise InvalidInputError(
            f"Load into {stream!r}: recorded_at of version {version} is {recorded_at.isoformat()}; possible is "
            f"{RECORDED_FROM.isoformat()} up to before {RECORDED_BEFORE.isoformat()}. Leave out a time that is not "
            "known, or give a date that people will recognise as such."
        )


def check_chunk(chunk: Sequence[HistoricWrite]) -> dict[str, tuple[int, int]]:
    """Return the version before the first event, and the number of events, of each stream in a chunk.

    Raises:
        InvalidInputError: the versions of a stream do not follow each other, or an id is there twice.
    """
    streams: dict[str, tuple[int, int]] = {}
    for write in chunk:
        stream, version = write[:2]
        before, count = streams.get(stream, (version - 1, 0))
        if version != before + count + 1 or before < 0:
            raise InvalidInputError(
                f"Load into {stream!r}: version {version} comes where {max(before, 0) + count + 1} "
                "should. Give each stream's events in order, without gaps."
            )
        streams[stream] = (before, count + 1)
    if len({write.id for write in chunk}) < len(chunk):
        raise InvalidInputError(f"Load: an event id is twice among the {len(chunk):,} events of a chunk.")
    return streams


async def load_chunk(connection: postgres.Connection, settings: Settings, chunk: Sequence[HistoricWrite]) -> int:
    """Store a chunk, all or nothing, and return how many of its events were stored before.

    Raises:
        ConflictError: a stream is not where its first event belongs.
        StreamClosedError, EventIdReusedError, BacklogFullError: as for appends.
    """
    sql = queries("gatelog.producer", "load.sql", settings.store)
    streams = check_chunk(chunk)
    try:
        if await _stored_plainly(connection, settings, sql, chunk, streams):
            return 0
    except asyncpg.UniqueViolationError:
        pass  # an id is in the outbox already: see below
    rows = await connection.fetch(sql["stored"], [write.id for write in chunk])
    stored = {row["event_id"]: (row["stream"], row["version"]) for row in rows}
    for write in chunk:
        if stored.get(write.id, (write.stream, write.version)) != (write.stream, write.version):
            raise EventIdReusedError(write.stream, len(stored), len(chunk), write.id)
    if not stored:
        raise await _refusal(connection, settings, sql, streams)
    left = [write for write in chunk if write.id not in stored]
    if left:
        await load_chunk(connection, settings, left)
    return len(stored)


async def _stored_plainly(
    connection: postgres.Connection,
    settings: Settings,
    sql: dict[str, str],
    chunk: Sequence[HistoricWrite],
    streams: dict[str, tuple[int, int]],
) -> bool:
    """Store a chunk that is new as a whole. False: it is not, and nothing was changed."""
    names = sorted(streams)  # one lock order everywhere: code points sort as UTF-8 bytes do
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(sql["hold"])
        passed = await connection.fetchrow(
            sql["pass"],
            names,
            [streams[name][0] for name in names],
            [streams[name][1] for name in names],
            [write.id for write in chunk],
            settings.outbox_events_max,
        )
        assert passed is not None
        if passed["streams"] == len(names):
            await connection.copy_records_to_table(
                f"outbox_{passed['segment']}", schema_name=settings.store, columns=COLUMNS, records=chunk
            )
    except BaseException:
        await transaction.rollback()
        raise
    if passed["streams"] < len(names):
        await transaction.rollback()
        return False
    await transaction.commit()
    return True


async def _refusal(
    connection: postgres.Connection, settings: Settings, sql: dict[str, str], streams: dict[str, tuple[int, int]]
) -> ConflictError | StreamClosedError | BacklogFullError:
    rows = {row["stream"]: row for row in await connection.fetch(sql["state"], list(streams))}
    for name, (before, _) in streams.items():
        version = rows[name]["version"] if name in rows else 0
        if version != before:
            return ConflictError(name, before, version)
        if name in rows and rows[name]["closed"]:
            return StreamClosedError(name, version)
    return BacklogFullError(settings.store, settings.outbox_events_max)
