"""The reader: one stream from index and outbox, categories and the whole log from the index."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from gatelog.core import migrations, postgres, shards
from gatelog.core.domain import check_stream_id
from gatelog.core.errors import InvalidInputError, StreamNotFoundError, WaitTimeoutError
from gatelog.core.settings import Settings
from gatelog.reader.sharded import sharded_source
from gatelog.reader.source import SCHEMA_ID, LogFilter, PostgresSource, Row, Source
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.event import Event
from gatelog.schemas.registry import PostgresRegistry

CONNECTIONS_MAX: Final = 10
WAIT_INTERVAL_S: Final = 0.01
VERSION_MAX: Final = 2**63 - 1
_TABLES_OF: Final = "gatelog.indexer"  # whose tables, through views, this part reads


class Reader:
    """Reads streams, categories and the whole log. Make one a process with ``connect``."""

    def __init__(self, settings: Settings, codec: Codec, source: Source) -> None:
        """Use ``connect`` instead."""
        self._settings = settings
        self._codec = codec
        self._source = source

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings | None = None) -> AsyncIterator["Reader"]:
        """Yield a reader.

        Raises:
            SettingsError: no Postgres is configured, or it refused the user.
            PostgresUnavailableError: no answer.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
            IndexPlaceError: the index is not where the settings say.
        """
        settings = settings or Settings.load()
        async with postgres.pool(settings.dsn, settings.store, "gatelog reader", CONNECTIONS_MAX) as pool:
            with postgres.translated(settings.store, settings.dsn):
                async with pool.acquire() as connection:
                    key = await shards.check_gate(connection, settings)
                    if key is None:
                        await migrations.check(connection, settings.store, _TABLES_OF)
            codec = Codec(PostgresRegistry(settings, pool), register=False)
            if key is None:
                yield cls(settings, codec, PostgresSource(settings, pool))
                return
            async with sharded_source(settings, pool, key, CONNECTIONS_MAX) as source:
                yield cls(settings, codec, source)

    async def stream(
        self,
        stream: str,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        limit: int | None = None,
        backward: bool = False,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the events of a stream by version, both ends included; every acknowledged append is seen.

        ``backward`` starts at ``to_version`` (default: the last event). A page of ``read_rows_max`` rows is
        fetched at a time; events are immutable, so that pages fit together.

        Raises:
            InvalidStreamIdError: the id is not legal.
            StreamNotFoundError: the stream has no events at all.
            PostgresUnavailableError: no answer.
        """
        check_stream_id(stream)
        lowest, highest = from_version or 1, to_version or VERSION_MAX
        left = _checked_limit(limit)
        first = True
        while lowest <= highest and left > 0:
            page = min(left, self._settings.read_rows_max)
            events = await self._events(await self._source.stream(stream, lowest, highest, page, backward=backward))
            if first and not events and not await self.version(stream):
                raise StreamNotFoundError(stream)
            for event in events:
                yield event
            if len(events) < page:
                return
            first = False
            left -= page
            if backward:
                highest = events[-1].version - 1
            else:
                lowest = events[-1].version + 1

    async def version(self, stream: str) -> int:
        """Return the version of a stream, which is the number of its events; 0 when it does not exist.

        Raises:
            InvalidStreamIdError: the id is not legal.
            PostgresUnavailableError: no answer.
        """
        check_stream_id(stream)
        return await self._source.version(stream)

    def category(
        self,
        *categories: str,
        types: Iterable[type[Event] | str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the events of categories in position order, up to the frontier; see ``all`` for the filters."""
        if not categories:
            raise InvalidInputError("Name at least one category, or read all().")
        return self._log(categories, types, since, until, where, after, limit)

    def all(
        self,
        *,
        types: Iterable[type[Event] | str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Mapping[str, Any] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        """Yield the whole log in position order, up to the frontier.

        ``types``: models or event types. ``since`` (included) and ``until`` (excluded) bound the time of
        recording. ``where``: payload fields that must be equal, as JSON. ``after``: a position.

        Raises:
            PostgresUnavailableError: no answer.
        """
        return self._log(None, types, since, until, where, after, limit)

    async def frontier(self) -> int:
        """Return the highest position below which the index misses nothing."""
        return await self._source.frontier()

    async def indexed(self, event_ids: Sequence[UUID], *, timeout: float = 30.0) -> list[int]:
        """Wait until the index holds these events and the log up to them; return their positions in order.

        Raises:
            WaitTimeoutError: not within ``timeout`` seconds; are relay and indexer running?
        """
        found: dict[UUID, int] = {}
        try:
            async with asyncio.timeout(timeout):
                while len(found) < len(set(event_ids)) or await self.frontier() < max(found.values(), default=0):
                    found = await self._source.positions(event_ids)
                    await asyncio.sleep(WAIT_INTERVAL_S)
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"{len(found)} of {len(event_ids)} events are indexed after {timeout:g} s. "
                "Are relay and indexer running? See `gatelog status`."
            ) from error
        return [found[event_id] for event_id in event_ids]

    async def _log(
        self,
        categories: Sequence[str] | None,
        types: Iterable[type[Event] | str] | None,
        since: datetime | None,
        until: datetime | None,
        where: Mapping[str, Any] | None,
        after: int,
        limit: int | None,
    ) -> AsyncIterator[RecordedEvent]:
        names = None if types is None else [t if isinstance(t, str) else t.event_type for t in types]
        wanted = LogFilter(categories, names, since, until, where)
        left = _checked_limit(limit)
        while left > 0:
            page = min(left, self._settings.read_rows_max)
            events = await self._events(await self._source.log(after, wanted, page))
            for event in events:
                yield event
            if len(events) < page:
                return
            left -= page
            assert events[-1].position is not None
            after = events[-1].position

    async def _events(self, rows: Sequence[Row]) -> list[RecordedEvent]:
        await self._codec.warm({row[SCHEMA_ID] for row in rows})
        return [_event(row, self._codec) for row in rows]


def _checked_limit(limit: int | None) -> int:
    if limit is not None and limit < 0:
        raise InvalidInputError(f"limit is {limit}; it must not be negative.")
    return VERSION_MAX if limit is None else limit


def _event(row: Row, codec: Codec) -> RecordedEvent:
    fields: tuple[Any, ...] = (*row, codec)
    return RecordedEvent(*fields)
