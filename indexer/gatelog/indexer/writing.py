"""Writes batches: rows and offsets in one transaction, by compare-and-set, so that each record is written once."""

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

from gatelog.core import postgres
from gatelog.core.errors import GatelogError
from gatelog.core.sql import queries
from gatelog.indexer.batches import Batch, Place
from gatelog.indexer.rows import COLUMNS, EVENT_ID, POSITION, STREAM, UNREADABLE_COLUMNS, VERSION, Row

PACKAGE: Final = "gatelog.indexer"


class PartitionLostError(GatelogError):
    """Another indexer has written past us: this one's assignment is stale."""

    retryable = True


class Writer:
    """Writes to the index tables of one Postgres schema."""

    def __init__(self, pool: postgres.Pool, schema: str, *, repeated: str = "doubles") -> None:
        """Write through ``pool``; ``repeated`` names the statement that finds rows which repeat the index."""
        self._pool = pool
        self._schema = schema
        self._sql = queries(PACKAGE, "index.sql", schema)
        self._repeated = repeated

    async def write(self, batch: Batch, since: Mapping[Place, int]) -> None:
        """Write a batch, if all its partitions are still at their offsets of ``since``; then move the frontier.

        Raises:
            PartitionLostError: one of them is not. Nothing was written.
        """
        if not batch.upto:
            return
        try:
            await self._store(batch, since)
        except asyncpg.UniqueViolationError:
            await self._set_doubles_aside(batch)
            await self._store(batch, since)

    async def _store(self, batch: Batch, since: Mapping[Place, int]) -> None:
        """Rows and offsets in one transaction, or neither."""
        places = sorted(batch.upto)  # one lock order for all indexers
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                moved = await connection.fetch(
                    self._sql["advance"],
                    [topic for topic, _ in places],
                    [partition for _, partition in places],
                    [since[place] for place in places],
                    [batch.upto[place] for place in places],
                )
                if len(moved) < len(places):
                    raise PartitionLostError(
                        f"Another indexer has written to {len(places) - len(moved)} of {len(places)} partitions: "
                        "this one's assignment is stale. It wrote nothing and joins the group again."
                    )
                await self._copy(connection, "events", COLUMNS, batch.rows)
                await self._copy(
                    connection, "unreadable_records", UNREADABLE_COLUMNS, list(batch.unreadable.values())
                )
            await connection.execute(self._sql["frontier"])

    async def _set_doubles_aside(self, batch: Batch) -> None:
        """Keep records that repeat what the index holds: somebody else wrote them into the topic."""
        rows = await self._pool.fetch(
            self._sql[self._repeated],
            [row[POSITION] for row in batch.rows],
            [row[STREAM] for row in batch.rows],
            [row[VERSION] for row in batch.rows],
            [row[EVENT_ID] for row in batch.rows],
        )
        batch.set_aside({row["place"] for row in rows}, "its position, its version in the stream, or its id is taken")

    async def _copy(
        self, connection: postgres.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]
    ) -> None:
        if rows:
            await connection.copy_records_to_table(table, schema_name=self._schema, columns=columns, records=rows)
