"""Writes batches: rows and offsets in one transaction, by compare-and-set, so that each record is written once."""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import asyncpg

from gatelog.core import logs, postgres
from gatelog.core.errors import GatelogError, LogMismatchError
from gatelog.core.sql import queries
from gatelog.indexer.batches import Batch, Place
from gatelog.indexer.rows import (
    COLUMNS,
    DATA,
    EVENT_ID,
    POSITION,
    SCHEMA_ID,
    STREAM,
    TYPE,
    UNREADABLE_COLUMNS,
    VERSION,
    Row,
)

PACKAGE: Final = "gatelog.indexer"

_IDENTITY: Final = (POSITION, STREAM, VERSION, EVENT_ID, TYPE, SCHEMA_ID, DATA)

_log = logs.logger("indexer")


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
        self._knows_streams = repeated == "doubles"  # it has the index to find them by

    async def write(self, batch: Batch, since: Mapping[Place, int]) -> None:
        """Write a batch, if all its partitions are still at their offsets of ``since``.

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
        async with self._pool.acquire() as connection, connection.transaction():
            moved = await connection.fetch(
                self._sql["advance"],
                [topic for topic, _ in places],
                [partition for _, partition in places],
                [since[place] for place in places],
                [batch.upto[place] for place in places],
                [batch.epochs.get(place) for place in places],
            )
            if len(moved) < len(places):
                raise PartitionLostError(
                    f"Another indexer has written to {len(places) - len(moved)} of {len(places)} partitions: "
                    "this one's assignment is stale. It wrote nothing and joins the group again."
                )
            await self._copy(connection, "unreadable_records", UNREADABLE_COLUMNS, list(batch.unreadable.values()))
            if self._knows_streams:
                await self._refuse_holes(connection, batch.rows)
            in_order = sorted(batch.rows, key=itemgetter(POSITION))  # an index page is then written to once
            await self._copy(connection, "events", COLUMNS, in_order)

    async def _refuse_holes(self, connection: postgres.Connection, rows: Sequence[Row]) -> None:
        """Whatever was skipped, and why: no version is written whose predecessor is nowhere.

        What stands before a batch is committed: its partitions have not moved since.

        Raises:
            LogMismatchError: there is one.
        """
        there: set[tuple[Any, Any]] = {(row[STREAM], row[VERSION]) for row in rows}  # a row's columns have many types
        first = [each for each in there if each[1] > 1 and (each[0], each[1] - 1) not in there]
        for statement in ("without_predecessor", "lost_predecessors"):
            if not first:
                return
            found = await connection.fetch(self._sql[statement], *map(list, zip(*first, strict=True)))
            first = [(row["stream"], row["version"]) for row in found]
        if first:
            stream, version = first[0]
            others = f", and as much of {len(first) - 1:,} others" if len(first) > 1 else ""
            raise LogMismatchError(
                f"Stream {stream!r}: Kafka gives version {version:,}, but version {version - 1:,} is neither in the "
                f"index nor kept aside{others}. Records were skipped, or Kafka or the index has lost them. Nothing "
                "was written. `gatelog verify` says what is missing; `gatelog republish` brings back what Kafka "
                "lacks, and then `gatelog index rebuild` what the index lacks."
            )

    async def advance_frontier(self) -> None:
        """Move the frontier as far as positions follow each other."""
        await self._pool.execute(self._sql["frontier"])

    async def _set_doubles_aside(self, batch: Batch) -> None:
        """Pass over copies of what the index holds, and keep records that contradict it: the relay writes neither."""
        found = await self._pool.fetch(self._sql["copies"], *([row[c] for row in batch.rows] for c in _IDENTITY))
        copies = {row["place"] for row in found} | set(_repeated(batch.rows))
        if copies:
            _log.warning("record.copies", records=len(copies))
            batch.leave_out(copies)
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


def _repeated(rows: Sequence[Row]) -> Iterator[int]:
    """Yield the places of rows that repeat an earlier one to the letter."""
    seen = set()
    for place, row in enumerate(rows):
        identity = tuple(row[column] for column in _IDENTITY)
        if identity in seen:
            yield place
        seen.add(identity)
