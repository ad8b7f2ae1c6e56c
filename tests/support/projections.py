"""A read model that keeps what it was given: whatever is lost, doubled or out of order shows in its table."""

from collections.abc import Sequence
from typing import TypeAlias

import asyncpg

from gatelog.core.settings import Settings
from gatelog.reader import Projection
from gatelog.schemas import RecordedEvent

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = """
CREATE TABLE seen (nth bigint GENERATED ALWAYS AS IDENTITY, position bigint, stream text, version bigint, by text);
CREATE TABLE totals (stream text PRIMARY KEY, events bigint NOT NULL);
"""


def keeping(name: str, settings: Settings, by: str = "", **more: object) -> Projection:
    """Return a projection into a schema of its own, named after the store and the projection."""
    projection = Projection(name, schema=schema_of(name, settings), **more)  # type: ignore[arg-type] # as they come

    @projection.set_up
    async def tables(connection: Connection) -> None:
        await connection.execute(TABLES)

    @projection.batch
    async def keep(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        await connection.copy_records_to_table(
            "seen",
            columns=["position", "stream", "version", "by"],
            records=[(event.position, event.stream, event.version, by) for event in events],
        ) if not by.startswith("slow") else await _one_by_one(connection, events, by)
        counts: dict[str, int] = {}
        for event in events:
            counts[event.stream] = counts.get(event.stream, 0) + 1
        await connection.executemany(
            "INSERT INTO totals AS t VALUES ($1, $2) ON CONFLICT (stream) DO UPDATE SET events = t.events + $2",
            sorted(counts.items()),
        )

    return projection


async def _one_by_one(connection: Connection, events: Sequence[RecordedEvent], by: str) -> None:
    """Take long, as functions do that are called one event at a time."""
    for event in events:
        await connection.execute(
            "INSERT INTO seen (position, stream, version, by) VALUES ($1, $2, $3, $4)",
            event.position,
            event.stream,
            event.version,
            by,
        )


def schema_of(name: str, settings: Settings) -> str:
    return f"{settings.store}_{name}"
