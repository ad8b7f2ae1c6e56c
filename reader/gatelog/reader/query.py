"""A query of the log: iterate over it, take it page by page, or ask how Postgres answers it."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from gatelog.core.errors import InvalidInputError
from gatelog.reader import cursor as cursors
from gatelog.reader.log_query import POSITION_MAX, LogQuery
from gatelog.reader.paging import FIRST_ROWS, pages_behind
from gatelog.reader.source import Source
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import SCHEMA_ID, RecordedEvent
from gatelog.schemas.parts import as_read
from gatelog.schemas.upcasting import stored_types_of

EXPLAINED_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and the cursor of those behind them; None: there are no more now."""

    events: list[RecordedEvent]
    cursor: str | None


class Query:
    """Events of the log in position order, up to the frontier. Made by ``Reader.all`` and ``Reader.category``.

    Nothing is asked before it is used; it may be used again, and finds what is there then.
    """

    def __init__(self, source: Source, codec: Codec, query: LogQuery, limit: int | None, rows_max: int) -> None:
        """Use ``Reader.all`` or ``Reader.category``."""
        self._source = source
        self._codec = codec
        self._query = query
        types = None if query.types is None else tuple(sorted(stored_types_of(query.types)))
        self._stored = replace(query, types=types)  # what is stored under another type may be read as one of these
        self._limit = limit
        self._rows_max = rows_max

    async def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        """Yield the events, streamed in pages that grow.

        Raises:
            PayloadNotIndexedError: it has payload conditions, and ``index_jsonb`` is off.
            PostgresUnavailableError: no answer.
        """
        limit = POSITION_MAX if self._limit is None else self._limit
        rows = min(limit, FIRST_ROWS, self._rows_max)
        first = await self._events(self._query.start, rows) if rows else []
        for event in self._as_read(first):
            yield event
        if first and len(first) == rows:
            async with aclosing(pages_behind(first, self._behind, limit - rows, self._rows_max)) as pages:
                async for page in pages:
                    for event in self._as_read(page):
                        yield event

    async def page(self, size: int, cursor: str | None = None) -> Page:
        """Return up to ``size`` events, behind ``cursor`` or from the start, and the cursor of the next page.

        A cursor stays good: events do not change, and new ones come behind those that are there. The limit of the
        query does not count here.

        Raises:
            InvalidCursorError: the cursor was altered, or is of another store or query.
            InvalidInputError: ``size`` is not between 1 and ``read_rows_max``.
            PayloadNotIndexedError, PostgresUnavailableError: as for iteration.
        """
        if not 1 <= size <= self._rows_max:
            raise InvalidInputError(f"A page of {size} events; 1 to {self._rows_max:,} are allowed (read_rows_max).")
        key, fingerprint = await self._source.cursor_key(), self._query.fingerprint()
        after = self._query.start if cursor is None else cursors.decode(key, fingerprint, cursor)
        events = await self._events(after, size + 1)
        if len(events) <= size:
            return Page(self._as_read(events), None)
        return Page(self._as_read(events[:size]), cursors.encode(key, fingerprint, _position(events[size - 1])))

    async def explain(self, *, analyze: bool = False) -> str:
        """Return Postgres' plan for the first page, as text. ``analyze`` runs it, and adds times and rows.

        Raises:
            PayloadNotIndexedError, PostgresUnavailableError: as for iteration.
        """
        rows = EXPLAINED_ROWS if self._limit is None else min(self._limit, EXPLAINED_ROWS)
        return await self._source.explain(self._stored, rows, analyze=analyze)

    async def _behind(self, event: RecordedEvent, rows: int) -> list[RecordedEvent]:
        return await self._events(_position(event), rows)

    async def _events(self, after: int, rows: int) -> list[RecordedEvent]:
        found = await self._source.log(self._stored, after, rows)
        codec = self._codec
        await codec.warm({row[SCHEMA_ID] for row in found})
        return [RecordedEvent(row, codec) for row in found]

    def _as_read(self, events: list[RecordedEvent]) -> list[RecordedEvent]:
        return as_read(events, self._query.types, backward=self._query.backward)


def _position(event: RecordedEvent) -> int:
    assert event.position is not None  # it came from the index
    return event.position
