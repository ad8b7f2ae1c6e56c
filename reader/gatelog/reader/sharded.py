"""Rows of a store whose index is in other databases than its gate: one, or several shards.

No snapshot covers two databases. So a stream is read from the outbox first, then from the index: an event leaves the
outbox only when the index holds it, so that it is in one of the answers at least. And the gate's database says in the
first answer up to which position events may have left; a shard whose frontier is below that is not asked.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from uuid import UUID

from gatelog.core import migrations, postgres
from gatelog.core import shards as places
from gatelog.core.errors import IndexIncompleteError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.merging import by_position, by_version
from gatelog.reader.source import LogFilter, PostgresSource, Row

_TABLES_OF: Final = "gatelog.indexer"


class Shard:
    """One database of the index, and how far it is known to hold its part."""

    def __init__(self, settings: Settings, number: int) -> None:
        """Call ``opened`` before the first read."""
        self._settings = settings
        self._number = number
        self._frontier = 0
        self.dsn = settings.shard_dsns[number]
        self.source: PostgresSource

    @asynccontextmanager
    async def opened(self, key: UUID, connections_max: int) -> AsyncIterator["Shard"]:
        """Connect, check that it is the right database, and yield it."""
        settings = self._settings
        async with postgres.pool(self.dsn, settings.store, "gatelog reader", connections_max, self._forget) as pool:
            with postgres.translated(settings.store, self.dsn):
                async with pool.acquire() as connection:
                    await places.check_shard(connection, settings, self._number, key)
                    await migrations.check(connection, settings.store, _TABLES_OF)
            self.source = PostgresSource(
                settings.model_copy(update={"postgres_dsn": settings.index_dsns[self._number]}), pool
            )
            yield self

    async def frontier(self) -> int:
        """Return how far the store's index misses nothing, as far as this shard has been told."""
        self._frontier = await self.source.frontier()
        return self._frontier

    async def need(self, position: int) -> None:
        """Refuse to go on unless the shard holds all of its events up to a position.

        Raises:
            IndexIncompleteError: it does not.
        """
        if self._frontier < position and await self.frontier() < position:
            raise IndexIncompleteError(self._settings.store, self._number, self._frontier, position)

    async def _forget(self, _connection: object) -> None:
        """A new connection may lead to a database that was restored from an older state."""
        self._frontier = 0


class ShardedSource:
    """Rows of the outbox and of an index in other databases. See ``Source``."""

    def __init__(self, settings: Settings, gate: postgres.Pool, shards: Sequence[Shard]) -> None:
        """Use ``sharded_source`` instead."""
        self._store, self._dsn = settings.store, settings.dsn
        self._gate = gate
        self._shards = shards
        self._sql = queries("gatelog.reader", "sharded.sql", settings.store)

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """See ``Source``. The outbox first.

        Raises:
            IndexIncompleteError: the shard was lost or restored, and is not filled again yet.
        """
        shard = self._shard_of(stream)
        first = await self._ask("pending_backward" if backward else "pending", stream, lowest, highest, limit)
        await shard.need(first[0]["left_upto"])
        indexed = await shard.source.stream(stream, lowest, highest, limit, backward=backward)
        pending = [tuple(row)[1:] for row in first if row["version"] is not None]
        return by_version(indexed, pending, limit, backward=backward)

    async def version(self, stream: str) -> int:
        """See ``Source``. The outbox first.

        Raises:
            IndexIncompleteError: the shard was lost or restored, and is not filled again yet.
        """
        shard = self._shard_of(stream)
        (first,) = await self._ask("pending_version", stream)
        await shard.need(first["left_upto"])
        return max(int(first["version"]), await shard.source.version(stream))

    async def log(self, after: int, wanted: LogFilter, limit: int) -> Sequence[Row]:
        """See ``Source``. What is above the lowest frontier of a shard may miss events, and is left out."""
        frontier = await self.frontier()
        return by_position(
            await asyncio.gather(*(shard.source.log(after, wanted, limit) for shard in self._shards)), frontier, limit
        )

    async def frontier(self) -> int:
        """See ``Source``."""
        return min(await asyncio.gather(*(shard.frontier() for shard in self._shards)))

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """See ``Source``."""
        found = await asyncio.gather(*(shard.source.positions(event_ids) for shard in self._shards))
        return {event_id: position for each in found for event_id, position in each.items()}

    def _shard_of(self, stream: str) -> Shard:
        return self._shards[places.shard_of(stream.encode(), len(self._shards))]

    async def _ask(self, statement: str, *arguments: object) -> Sequence[Any]:
        with postgres.translated(self._store, self._dsn):
            return await self._gate.fetch(self._sql[statement], *arguments)


@asynccontextmanager
async def sharded_source(
    settings: Settings, gate: postgres.Pool, key: UUID, connections_max: int
) -> AsyncIterator[ShardedSource]:
    """Connect to every shard, check it, and yield the source.

    Raises:
        IndexPlaceError: a database is not what the settings say.
        StoreNotInitialisedError: it has no tables of the store.
    """
    async with AsyncExitStack() as opened:
        shards = [
            await opened.enter_async_context(Shard(settings, number).opened(key, connections_max))
            for number in range(len(settings.index_dsns))
        ]
        yield ShardedSource(settings, gate, shards)
