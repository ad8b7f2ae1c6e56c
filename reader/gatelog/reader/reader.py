"""The reader: one stream from index and outbox, categories and the whole log from the index."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Final
from uuid import UUID

from gatelog.core import migrations, postgres, shards
from gatelog.core.domain import check_stream_id
from gatelog.core.errors import InvalidInputError, StreamIncompleteError, StreamNotFoundError, WaitTimeoutError
from gatelog.core.settings import Settings
from gatelog.reader.folds.fold import StateT, fold
from gatelog.reader.folds.snapshots import PostgresSnapshots, Snapshots
from gatelog.reader.log_query import LogQuery, log_query
from gatelog.reader.paging import FIRST_ROWS, pages_behind
from gatelog.reader.query import Query
from gatelog.reader.sharded import opened_source
from gatelog.reader.source import Source, prepare_session
from gatelog.reader.stream_reads import StreamRead
from gatelog.reader.where import Where
from gatelog.reader.wholeness import VERSION_MAX, hole_in, hole_up_to
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import SCHEMA_ID, RecordedEvent
from gatelog.schemas.event import Event
from gatelog.schemas.parts import as_read
from gatelog.schemas.registries import registry_of

CONNECTIONS_MAX: Final = 10
WAIT_FIRST_S: Final = 0.002
WAIT_MAX_S: Final = 0.1
_TABLES_OF: Final = ("gatelog.indexer", "gatelog.reader.folds")  # whose tables, or views of them, this part uses


class Reader:
    """Reads streams, categories and the whole log. Make one a process with ``connect``."""

    def __init__(self, settings: Settings, codec: Codec, source: Source, snapshots: Snapshots) -> None:
        """Use ``connect`` instead."""
        self._snapshots = snapshots
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
            SchemaError: stored events have no way to the newest model: an upcaster is missing.
        """
        settings = settings or Settings.load()
        async with postgres.pool(
            settings.dsn, settings.store, "gatelog reader", CONNECTIONS_MAX, prepare_session
        ) as pool:
            with postgres.translated(settings.store, settings.dsn):
                async with pool.acquire() as connection:
                    key = await shards.check_gate(connection, settings)
                    for part in _TABLES_OF if key is None else _TABLES_OF[1:]:
                        await migrations.check(connection, settings.store, part)
            codec = Codec(registry_of(settings, pool), register=False)
            await codec.start()
            async with opened_source(settings, pool, CONNECTIONS_MAX) as source:
                yield cls(settings, codec, source, PostgresSnapshots(settings.store, pool))

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

        ``backward`` starts at ``to_version`` (default: the last event). Long streams come in pages, up to
        ``read_rows_max`` rows each; events are immutable, so that pages fit together.

        Raises:
            InvalidStreamIdError, InvalidInputError: the id is not legal, a version or the limit no whole number.
            StreamNotFoundError: the stream has no events at all.
            StreamIncompleteError: versions are missing in between: they are in neither index nor outbox.
            PostgresUnavailableError: no answer.
        """
        check_stream_id(stream)
        lowest = max(1, _checked("from_version", from_version, 1))
        highest = min(VERSION_MAX, _checked("to_version", to_version, VERSION_MAX))
        left = _checked_limit(limit)
        rows = min(left, FIRST_ROWS, self._settings.read_rows_max)
        if lowest > highest or rows == 0:
            return
        first = await self._stream(stream, lowest, highest, rows, backward=backward)
        if not first and not await self.version(stream):
            raise StreamNotFoundError(stream)
        for event in as_read(first, backward=backward):
            yield event
        if len(first) < rows:
            return

        async def behind(event: RecordedEvent, rows: int) -> list[RecordedEvent]:
            low, high = (lowest, event.version - 1) if backward else (event.version + 1, highest)
            return await self._stream(stream, low, high, rows, backward=backward) if low <= high else []

        async with aclosing(pages_behind(first, behind, left - rows, self._settings.read_rows_max)) as pages:
            async for page in pages:
                for event in as_read(page, backward=backward):
                    yield event

    async def last(self, stream: str) -> RecordedEvent | None:
        """Return the last event of a stream; None when it does not exist.

        Raises:
            InvalidStreamIdError: the id is not legal.
            PostgresUnavailableError: no answer.
        """
        check_stream_id(stream)
        found = await self._stream(stream, 1, VERSION_MAX, 1, backward=True)
        return as_read(found)[-1] if found else None

    async def exists(self, stream: str) -> bool:
        """Say whether a stream has events. Raises as ``version``."""
        return await self.version(stream) > 0

    async def version(self, stream: str) -> int:
        """Return the version of a stream, which is the number of its events; 0 when it does not exist.

        Raises:
            InvalidStreamIdError: the id is not legal.
            PostgresUnavailableError: no answer.
        """
        check_stream_id(stream)
        return await self._source.version(stream)

    async def fold(
        self,
        stream: str,
        state: type[StateT],
        *,
        version: int | None = None,
        at: datetime | None = None,
        snapshot_every: int | None = None,
    ) -> StateT:
        """Return what the events of a stream add up to: now, as of a version, or as of a time.

        ``state``: a model derived from ``State``. Every acknowledged append is seen. ``at``: events are applied up to
        the first that was recorded later. When ``snapshot_every`` events (default: ``snapshot_events``; 0: never)
        were applied, the state is kept, and the next fold goes on from there.

        Raises:
            StreamNotFoundError, StreamIncompleteError: see ``stream``.
            InvalidStreamIdError, InvalidInputError: refused before anything was asked.
            PostgresUnavailableError: no answer.
        """
        every = self._settings.snapshot_events if snapshot_every is None else snapshot_every
        return await fold(self.stream, self._snapshots, stream, state, version=version, at=at, snapshot_every=every)

    def category(
        self,
        *categories: str,
        types: Iterable[type[Event] | str] | None = None,
        correlation_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Where | None = None,
        after: int | None = None,
        limit: int | None = None,
        backward: bool = False,
    ) -> Query:
        """Return the events of categories; see ``all`` for the filters."""
        if not categories:
            raise InvalidInputError("Name at least one category, or read all().")
        wanted = log_query(categories, types, correlation_id, since, until, where, after, backward)
        return self._query(wanted, limit)

    def all(
        self,
        *,
        types: Iterable[type[Event] | str] | None = None,
        correlation_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        where: Where | None = None,
        after: int | None = None,
        limit: int | None = None,
        backward: bool = False,
    ) -> Query:
        """Return the whole log, or what fits all filters, in position order, up to the frontier.

        Iterate over it (``async for event in reader.all()``), or take ``.page(size, cursor)``.

        ``types``: models or event types. ``correlation_id``: the story of a request, over all categories; the event
        with that id is part of it. ``since`` (included) and ``until`` (excluded) bound the time of recording.
        ``where``: payload fields that are equal, ``{"customer": "ann"}``, or compared, ``[field("total") >= 10]``.
        ``after``: a position; with ``backward``, reading goes on below it.

        Raises:
            InvalidInputError: a filter is not one.
            SchemaError: an event type is not a legal name.
        """
        return self._query(log_query(None, types, correlation_id, since, until, where, after, backward), limit)

    async def frontier(self) -> int:
        """Return the highest position below which the index misses nothing."""
        return await self._source.frontier()

    async def indexed(self, event_ids: Sequence[UUID], *, timeout: float = 30.0) -> list[int]:
        """Wait until the index holds these events and the log up to them; return their positions in order.

        Raises:
            InvalidInputError: an id is no UUID.
            WaitTimeoutError: not within ``timeout`` seconds; are relay and indexer running?
        """
        if wrong := [each for each in event_ids if not isinstance(each, UUID)]:
            raise InvalidInputError(f"{wrong[0]!r} is no event id; ids are UUIDs.")
        found: dict[UUID, int] = {}
        wanted, pause_s = set(event_ids), WAIT_FIRST_S
        try:
            async with asyncio.timeout(timeout):
                while True:
                    found |= await self._source.positions([each for each in wanted if each not in found])
                    if len(found) == len(wanted) and await self.frontier() >= max(found.values(), default=0):
                        return [found[event_id] for event_id in event_ids]
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, WAIT_MAX_S)
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"{len(found)} of {len(wanted)} events are indexed after {timeout:g} s. "
                "Are relay and indexer running? See `gatelog status`."
            ) from error

    async def _stream(
        self, stream: str, lowest: int, highest: int, rows: int, *, backward: bool
    ) -> list[RecordedEvent]:
        found = await self._source.stream(stream, lowest, highest, rows, backward=backward)
        wanted = StreamRead(stream, lowest, highest, rows)
        if (hole := await hole_in(found, wanted, self._source, backward=backward)) is not None:
            found = await self._source.stream(stream, lowest, highest, rows, backward=backward)  # it may have grown
            if (hole := hole_up_to(hole[1], found, wanted, backward=backward)) is not None:
                raise StreamIncompleteError(stream, *hole)
        codec = self._codec
        await codec.warm({row[SCHEMA_ID] for row in found})
        return [RecordedEvent(row, codec) for row in found]

    def _query(self, wanted: LogQuery, limit: int | None) -> Query:
        _checked_limit(limit)
        return Query(self._source, self._codec, wanted, limit, self._settings.read_rows_max)


def _checked(name: str, number: int | None, default: int) -> int:
    if number is not None and not isinstance(number, int):
        raise InvalidInputError(f"{name} is {number!r}; it must be a whole number.")
    return default if number is None else number


def _checked_limit(limit: int | None) -> int:
    checked = _checked("limit", limit, VERSION_MAX)
    if checked < 0:
        raise InvalidInputError(f"limit is {limit}; it must not be negative.")
    return checked
