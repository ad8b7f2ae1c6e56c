"""A read model that keeps what it was given: whatever is lost, doubled or out of order shows in its table."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import asyncpg

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Projection
from gatelog.schemas import RecordedEvent
from support.models import Noted
from support.waiting import until

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


async def dropped_with_their_store(connection: Connection, settings: Settings) -> None:
    """Remove the schemas of a store's read models."""
    for row in await connection.fetch(
        "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, $1 || '_')", settings.store
    ):
        await connection.execute(f'DROP SCHEMA "{row[0]}" CASCADE')


@asynccontextmanager
async def at_work(settings: Settings, *projections: Projection) -> AsyncIterator[None]:
    """Run members until the block ends; one that fails fails the test."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as members:
        for projection in projections:
            members.create_task(projection.run(stop, settings))
        try:
            yield
        finally:
            stop.set()


async def fill(producer: Producer, events: int, categories: Sequence[str] = ("Note", "Bill", "Page")) -> int:
    """Append so many events, to some streams of each category."""
    for number in range(events):
        stream = f"{categories[number % len(categories)]}-{number % 7}"
        await producer.append(stream, [Noted(text=str(number))], expected_version=ANY)
    return events


async def positions(rows: Connection, schema: str) -> list[int]:
    """Return the positions that a read model holds, in the order in which they came."""
    return [row[0] for row in await rows.fetch(f'SELECT position FROM "{schema}".seen ORDER BY nth')]


async def has(rows: Connection, schema: str, events: int, timeout: float = 60.0) -> None:
    """Wait until a read model holds so many rows."""

    async def is_there() -> bool:
        with suppress(asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError):
            return bool(await rows.fetchval(f'SELECT count(*) >= $1 FROM "{schema}".seen', events))
        return False

    await until(is_there, f"{events} events are in {schema}", timeout)
