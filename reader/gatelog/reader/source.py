"""Where a reader's rows come from: Postgres, or memory in users' own tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from uuid import UUID

import asyncpg

from gatelog.core import postgres
from gatelog.core.errors import PayloadNotIndexedError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.log_query import LogQuery
from gatelog.reader.merging import by_version
from gatelog.reader.statement import statement_of
from gatelog.reader.stream_reads import StreamRead, StreamReads
from gatelog.reader.wholeness import hole_in
from gatelog.schemas.envelope import Row

_PACKAGE: Final = "gatelog.reader"


class Source(Protocol):
    """Rows of one store."""

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """Return the events of a stream with versions ``lowest`` to ``highest``, in order, the first ``limit``."""
        ...

    async def version(self, stream: str) -> int:
        """Return the version of a stream, 0 when it does not exist."""
        ...

    async def log(self, query: LogQuery, after: int, limit: int) -> Sequence[Row]:
        """Return events behind a position, up to the frontier, in the query's direction, the first ``limit``.

        Raises:
            PayloadNotIndexedError: the query has payload conditions, and ``index_jsonb`` is off.
        """
        ...

    async def explain(self, query: LogQuery, limit: int, *, analyze: bool) -> str:
        """Return how the first page of a query is found."""
        ...

    async def cursor_key(self) -> bytes:
        """Return what cursors are signed with."""
        ...

    async def frontier(self) -> int:
        """Return the highest position below which nothing is missing."""
        ...

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return the positions of those events that are indexed."""
        ...


async def prepare_session(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Set up a connection of the pool that ``PostgresSource`` reads the log through."""
    await connection.execute(queries(_PACKAGE, "query.sql", "any")["session"])


@asynccontextmanager
async def postgres_source(settings: Settings, pool: postgres.Pool) -> "AsyncIterator[PostgresSource]":
    """Yield a source that reads through ``pool``, and close what it opens beside it."""
    source = PostgresSource(settings, pool)
    try:
        yield source
    finally:
        await source.close()


class PostgresSource:
    """Rows of index and outbox."""

    def __init__(self, settings: Settings, pool: postgres.Pool) -> None:
        """Read through ``pool``."""
        self._settings = settings
        self._pool = pool
        self._sql = queries(_PACKAGE, "read.sql", settings.store)
        self._apart = queries(_PACKAGE, "sharded.sql", settings.store)
        self._forward = StreamReads(settings, pool, self._sql["stream_forward"], self._sql["streams_forward"])
        self._backward = StreamReads(settings, pool, self._sql["stream_backward"], self._sql["streams_backward"])

    async def close(self) -> None:
        """Give connections back to the pool."""
        await self._forward.close()
        await self._backward.close()

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """See ``Source``. One statement over index and outbox: a row on its way is seen once.

        Of the outbox it takes what comes after the index. What the index lacks before its end is there still, too.
        """
        reads, wanted = self._backward if backward else self._forward, StreamRead(stream, lowest, highest, limit)
        found = await reads.read(wanted)
        if await hole_in(found, wanted, self, backward=backward) is None:
            return found
        statement = self._apart["pending_backward" if backward else "pending"]
        pending = [tuple(row)[1:] for row in await self._fetch(statement, *wanted) if row["version"] is not None]
        return by_version(await reads.read(wanted), pending, limit, backward=backward)

    async def version(self, stream: str) -> int:
        """See ``Source``."""
        return int((await self._fetch(self._sql["version"], stream))[0][0])

    async def log(self, query: LogQuery, after: int, limit: int) -> Sequence[Row]:
        """See ``Source``."""
        self._check(query)
        if query.is_empty:
            return ()
        made = statement_of(self._settings.store, query, after, await self.frontier(), limit)
        return await self._fetch(made.sql, *made.arguments)

    async def explain(self, query: LogQuery, limit: int, *, analyze: bool) -> str:
        """See ``Source``: Postgres' plan as text."""
        self._check(query)
        if query.is_empty:
            return "Nothing is asked of Postgres: an empty list of types or categories fits no event."
        made = statement_of(self._settings.store, query, query.start, await self.frontier(), limit)
        options = "ANALYZE, BUFFERS" if analyze else "COSTS"
        return "\n".join(row[0] for row in await self._fetch(f"EXPLAIN ({options}) {made.sql}", *made.arguments))

    def _check(self, query: LogQuery) -> None:
        if query.where and not self._settings.index_jsonb:
            raise PayloadNotIndexedError(self._settings.store)

    async def cursor_key(self) -> bytes:
        """See ``Source``."""
        return bytes((await self._fetch(self._sql["cursor_key"]))[0][0])

    async def frontier(self) -> int:
        """See ``Source``."""
        return int((await self._fetch(self._sql["frontier"]))[0][0])

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """See ``Source``."""
        return {row["event_id"]: row["position"] for row in await self._fetch(self._sql["positions"], event_ids)}

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        with postgres.translated(self._settings.store, self._settings.dsn):
            return await self._pool.fetch(statement, *arguments)
