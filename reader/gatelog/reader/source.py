"""Where a reader's rows come from: Postgres, or memory in users' own tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.schemas.envelope import Row

_PACKAGE: Final = "gatelog.reader"


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What a read of the log asks for. None: everything."""

    categories: Sequence[str] | None = None
    types: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: Mapping[str, Any] | None = None


class Source(Protocol):
    """Rows of one store."""

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """Return the events of a stream with versions ``lowest`` to ``highest``, in order, the first ``limit``."""
        ...

    async def version(self, stream: str) -> int:
        """Return the version of a stream, 0 when it does not exist."""
        ...

    async def log(self, after: int, wanted: LogFilter, limit: int) -> Sequence[Row]:
        """Return events after a position, up to the frontier, in position order, the first ``limit``."""
        ...

    async def frontier(self) -> int:
        """Return the highest position below which nothing is missing."""
        ...

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return the positions of those events that are indexed."""
        ...


class PostgresSource:
    """Rows of index and outbox."""

    def __init__(self, settings: Settings, pool: postgres.Pool) -> None:
        """Read through ``pool``."""
        self._store = settings.store
        self._dsn = settings.dsn
        self._pool = pool
        self._sql = queries(_PACKAGE, "read.sql", settings.store)

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """See ``Source``. One statement over index and outbox: a row on its way is seen once."""
        return await self._fetch("stream_backward" if backward else "stream_forward", stream, lowest, highest, limit)

    async def version(self, stream: str) -> int:
        """See ``Source``."""
        return int((await self._fetch("version", stream))[0][0])

    async def log(self, after: int, wanted: LogFilter, limit: int) -> Sequence[Row]:
        """See ``Source``."""
        where = None if wanted.where is None else orjson.dumps(dict(wanted.where), default=str).decode()
        return await self._fetch(
            "log", after, wanted.categories, wanted.types, wanted.since, wanted.until, where, limit
        )

    async def frontier(self) -> int:
        """See ``Source``."""
        return int((await self._fetch("frontier"))[0][0])

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """See ``Source``."""
        return {row["event_id"]: row["position"] for row in await self._fetch("positions", event_ids)}

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        with postgres.translated(self._store, self._dsn):
            return await self._pool.fetch(self._sql[statement], *arguments)
