"""A reader's rows from memory."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from gatelog.core.domain import category_of
from gatelog.indexer.rows import json_of
from gatelog.reader.source import LogFilter
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Row
from gatelog.testing.gate import Log, Stored


class MemorySource:
    """See ``gatelog.reader.source.Source``."""

    def __init__(self, log: Log, codec: Codec) -> None:
        """Read ``log``; ``codec`` decodes what ``where`` looks at."""
        self._log = log
        self._codec = codec

    async def stream(self, stream: str, lowest: int, highest: int, limit: int, *, backward: bool) -> Sequence[Row]:
        """See ``Source``."""
        events = self._log.streams.get(stream, [])[lowest - 1 : highest]
        return [_row(stored) for stored in (events[::-1] if backward else events)[:limit]]

    async def version(self, stream: str) -> int:
        """See ``Source``."""
        return self._log.version(stream)

    async def log(self, after: int, wanted: LogFilter, limit: int) -> Sequence[Row]:
        """See ``Source``."""
        candidates = self._log.events[after:]
        await self._codec.warm({stored.event.schema_id for stored in candidates})
        return [_row(stored) for stored in candidates if self._fits(stored, wanted)][:limit]

    async def frontier(self) -> int:
        """See ``Source``."""
        return len(self._log.events)

    async def positions(self, event_ids: Sequence[UUID]) -> dict[UUID, int]:
        """See ``Source``."""
        return {i: self._log.by_id[i].position for i in event_ids if i in self._log.by_id}

    def _fits(self, stored: Stored, wanted: LogFilter) -> bool:
        return (
            (wanted.categories is None or category_of(stored.stream) in wanted.categories)
            and (wanted.types is None or stored.event.type in wanted.types)
            and (wanted.since is None or stored.recorded_at >= wanted.since)
            and (wanted.until is None or stored.recorded_at < wanted.until)
            and (
                wanted.where is None
                or _contains(self._json(stored), orjson.loads(orjson.dumps(dict(wanted.where), default=str)))
            )
        )

    def _json(self, stored: Stored) -> Any:  # noqa: ANN401 - a JSON value
        return orjson.loads(json_of(self._codec, stored.event.schema_id, stored.event.data))


def _contains(there: Any, wanted: Any) -> bool:  # noqa: ANN401 - JSON values
    """Say whether ``there`` contains ``wanted`` as jsonb's ``@>`` means it."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            key in there and _contains(there[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(there, list) and all(any(_contains(each, one) for each in there) for one in wanted)
    return type(there) is type(wanted) and bool(there == wanted)


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
