"""A reader's rows from memory."""

import secrets
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from gatelog.core.domain import category_of
from gatelog.indexer.rows import json_of
from gatelog.reader.log_query import LogQuery
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Row
from gatelog.testing.conditions import holds
from gatelog.testing.gate import Log, Stored


class MemorySource:
    """See ``gatelog.reader.source.Source``."""

    def __init__(self, log: Log, codec: Codec) -> None:
        """Read ``log``; ``codec`` decodes what ``where`` looks at."""
        self._log = log
        self._codec = codec
        self._cursor_key = secrets.token_bytes(32)

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """See ``Source``."""
        events = self._log.streams.get(stream, [])[lowest - 1 : highest]
        return [_row(stored) for stored in (events[::-1] if backward else events)[:limit]]

    async def version(self, stream: str) -> int:
        """See ``Source``."""
        return self._log.version(stream)

    async def log(self, query: LogQuery, after: int, limit: int) -> Sequence[Row]:
        """See ``Source``."""
        events = self._log.events
        candidates = events[: max(0, after - 1)][::-1] if query.backward else events[after:]
        await self._codec.warm({stored.event.schema_id for stored in candidates})
        return [_row(stored) for stored in candidates if self._fits(stored, query)][:limit]

    async def explain(self, query: LogQuery, limit: int, *, analyze: bool) -> str:
        """See ``Source``."""
        return "A list in memory, looked at from one end to the other."

    async def cursor_key(self) -> bytes:
        """See ``Source``."""
        return self._cursor_key

    async def frontier(self) -> int:
        """See ``Source``."""
        return len(self._log.events)

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """See ``Source``."""
        return {i: self._log.by_id[i].position for i in event_ids if i in self._log.by_id}

    def _fits(self, stored: Stored, query: LogQuery) -> bool:
        event = stored.event
        return (
            (query.categories is None or category_of(stored.stream) in query.categories)
            and (query.types is None or event.type in query.types)
            and (query.correlation_id is None or query.correlation_id in (event.correlation_id, event.id))
            and (query.since is None or stored.recorded_at >= query.since)
            and (query.until is None or stored.recorded_at < query.until)
            and (not query.where or holds(query.where, self._json(stored)))
        )

    def _json(self, stored: Stored) -> Any:  # noqa: ANN401 - a JSON value
        return orjson.loads(json_of(self._codec, stored.event.schema_id, stored.event.data))


def _row(stored: Stored) -> Row:
    event = stored.event
    return (
        stored.stream,
        stored.version,
        stored.position,
        event.id,
        event.type,
        stored.recorded_at,
        event.correlation_id,
        event.causation_id,
        event.traceparent,
        event.metadata,
        event.schema_id,
        event.data,
    )
