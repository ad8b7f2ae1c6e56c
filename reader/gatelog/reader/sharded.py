"""Rows of a store whose index is in other databases than its gate: one, or several shards.

No snapshot covers two databases. So a stream is read from the outbox first, then from the index: an event leaves the
outbox only when the index holds it, so that it is in one of the answers at least. And the gate's database says in the
first answer up to which position events may have left; a shard whose frontier is below that is not asked.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from gatelog.core import migrations, postgres
from gatelog.core import shards as places
from gatelog.core.errors import IndexIncompleteError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.log_query import LogQuery
from gatelog.reader.merging import by_position, by_version
from gatelog.reader.source import PostgresSource, Source, postgres_source, prepare_session
from gatelog.schemas.envelope import Row

_TABLES_OF: Final = "gatelog.indexer"


class Shard:
    """One database of the index."""

    def __init__(self, settings: Settings, number: int, source: PostgresSource) -> None:
        """Use ``opened_shard`` instead."""
        self._store = settings.store
        self._number = number
        self.source = source

    async def check(self, frontier: int, needed: int) -> None:
        """Refuse to go on unless the shard, whose frontier was just seen, holds its events up to a position.

        Raises:
            IndexIncompleteError: it does not.
        """
        if frontier < needed and (frontier := await self.source.frontier()) < needed:
            raise IndexIncompleteError(self._store, self._number, frontier, needed)


@asynccontextmanager
async def opened_shard(settings: Settings, number: int, key: UUID, connections_max: int) -> AsyncIterator[Shard]:
    """Connect to a shard, check that it is the right database, and yield it."""
    dsn, store = settings.shard_dsns[number], settings.store
    own = settings.model_copy(update={"postgres_dsn": settings.index_dsns[number]})
    async with postgres.pool(dsn, store, "gatelog reader", connections_max, prepare_session) as pool:
        with postgres.translated(store, dsn):
            async with pool.acquire() as connection:
                await places.check_shard(connection, settings, number, key)
                await migrations.check(connection, store, _TABLES_OF)
        async with postgres_source(own, pool) as source:
            yield Shard(settings, number, source)


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
        asked = self._ask("pending_backward" if backward else "pending", stream, lowest, highest, limit)
        first, frontier = await asyncio.gather(asked, shard.source.frontier())
        await shard.check(frontier, first[0]["left_upto"])
        indexed = await shard.source.stream(stream, lowest, highest, limit, backward=backward)
        pending = [tuple(row)[1:] for row in first if row["version"] is not None]
        return by_version(indexed, pending, limit, backward=backward)

    async def version(self, stream: str) -> int:
        """See ``Source``. The outbox first.

        Raises:
            IndexIncompleteError: the shard was lost or restored, and is not filled again yet.
        """
        shard = self._shard_of(stream)
        (first,), frontier = await asyncio.gather(self._ask("pending_version", stream), shard.source.frontier())
        await shard.check(frontier, first["left_upto"])
        return max(int(first["version"]), await shard.source.version(stream))

    async def log(self, query: LogQuery, after: int, limit: int) -> Sequence[Row]:
        """See ``Source``. What is above the lowest frontier of a shard may miss events, and is left out."""
        frontier = await self.frontier()
        if query.backward and after > frontier:
            after = frontier + 1
            query = replace(query, after=after)  # a first page, as before
        asked = [shard.source.log(query, after, limit) for shard in self._shards]
        return by_position(await asyncio.gather(*asked), frontier, limit, backward=query.backward)

    async def explain(self, query: LogQuery, limit: int, *, analyze: bool) -> str:
        """See ``Source``: the plan of each shard."""
        plans = [await shard.source.explain(query, limit, analyze=analyze) for shard in self._shards]
        return "\n".join(f"Shard {number}:\n{plan}" for number, plan in enumerate(plans))

    async def cursor_key(self) -> bytes:
        """See ``Source``: that of the first shard."""
        return await self._shards[0].source.cursor_key()

    async def frontier(self) -> int:
        """See ``Source``."""
        return min(await asyncio.gather(*(shard.source.frontier() for shard in self._shards)))

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
async def opened_source(settings: Settings, gate: postgres.Pool, connections_max: int) -> AsyncIterator[Source]:
    """Yield the source of a store, wherever its index is.

    Raises:
        IndexPlaceError: the index is not where the settings say.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
    """
    with postgres.translated(settings.store, settings.dsn):
        async with gate.acquire() as connection:
            key = await places.check_gate(connection, settings)
    made = sharded_source(settings, gate, key, connections_max) if key else postgres_source(settings, gate)
    async with made as source:
        yield source


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
            await opened.enter_async_context(opened_shard(settings, number, key, connections_max))
            for number in range(len(settings.index_dsns))
        ]
        yield ShardedSource(settings, gate, shards)
