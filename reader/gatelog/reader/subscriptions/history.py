"""History: what Kafka's retention has removed comes from the index, which hands over to Kafka at an exact place.

One statement, and so one snapshot, tells the highest position H of the index and, for each partition, the offset O at
which the indexer goes on. Rows and offsets of the index are committed together, therefore:

- every record before O is in the index, with a position of at most H;
- every record with a position above H is at O or behind it.

When the frontier has reached H, the index holds everything up to H. So: from the index up to H, then from Kafka at O,
where records up to H are passed over (others than the indexer of their partition had brought them meanwhile).
"""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from gatelog.core import logs, postgres
from gatelog.core.errors import HistoryGoneError, IndexPlaceError
from gatelog.core.services import wait_any
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.log_query import LogQuery
from gatelog.reader.source import PostgresSource
from gatelog.reader.subscriptions.merge import Place
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import SCHEMA_ID, RecordedEvent, Row
from gatelog.schemas.upcasting import stored_types_of

WAIT_INTERVAL_S: Final = 0.1
COMPLAINT_INTERVAL_S: Final = 10.0
POSITION: Final = 2  # place of the position in a row
INDEX_PATIENCE_S = 5.0  # with an index that does not move and lacks events; what Kafka does not have either is gone
PAGE_EVENTS: Final = 5_000

_log = logs.logger("history")


@dataclass(frozen=True, slots=True)
class Handover:
    """The index tells everything up to ``position``; Kafka goes on at these offsets."""

    position: int
    offsets: dict[Place, int]


class History:
    """The events of a store up to some position, from its index."""

    def __init__(self, settings: Settings, pool: postgres.Pool, codec: Codec) -> None:
        """Read through ``pool``."""
        self._store = settings.store
        self._is_apart = bool(settings.index_dsns)
        self._dsn = settings.dsn
        self._pool = pool
        self._codec = codec
        self._source = PostgresSource(settings, pool)
        self._sql = queries("gatelog.reader", "subscriptions/history.sql", settings.store)

    async def handover(self, lows: Mapping[Place, int], topics: Mapping[str, str | None]) -> Handover:
        """Fix where Kafka takes over in some partitions.

        ``lows``: the first offset that Kafka still has in each. ``topics``: the ids of the topics that Kafka has now.

        Raises:
            HistoryGoneError: records are gone from Kafka that the index lacks too; or the index was read from topics
                that are gone, and nobody has brought it and Kafka together (``gatelog republish``).
            PostgresUnavailableError: no answer.
        """
        found = await self._handover(lows, topics)
        if all(found.offsets[place] >= low for place, low in lows.items()):
            return found
        await self._nothing_is_lost(lows, found)
        found = await self._handover(lows, topics)
        return Handover(found.position, {place: max(offset, lows[place]) for place, offset in found.offsets.items()})

    async def _handover(self, lows: Mapping[Place, int], topics: Mapping[str, str | None]) -> Handover:
        """An offset of the index says something of the topic that it was read from; wait for it to be this one."""
        deadline = time.monotonic() + INDEX_PATIENCE_S
        while True:
            found, others = await self._handover_now(lows, topics)
            if not others:
                return found
            if time.monotonic() > deadline:
                place = min(others)
                why = "the topic was deleted and made again, and the index was read from the one before"
                raise HistoryGoneError(*place, None, why)
            await asyncio.sleep(WAIT_INTERVAL_S)

    async def _handover_now(
        self, lows: Mapping[Place, int], topics: Mapping[str, str | None]
    ) -> tuple[Handover, set[Place]]:
        if self._is_apart:
            raise IndexPlaceError(
                self._store,
                "what Kafka has removed would come from the index, which is in other databases than the gate. "
                "Projections and subscriptions cannot read it there yet. Keep Kafka's records (retention.ms=-1), or "
                "read what is gone with a Reader and begin a new one behind it (Start.after, start_after).",
            )
        rows = await self._fetch("handover")
        known = {(row["topic"], row["partition"]): row for row in rows}
        others = {
            place for place in lows if place in known and topics.get(place[0]) not in {None, known[place]["topic_id"]}
        }
        offsets = {place: known[place]["next_offset"] if place in known else 0 for place in lows}
        return Handover(rows[0]["highest"], offsets), others

    async def _nothing_is_lost(self, lows: Mapping[Place, int], found: Handover) -> None:
        """Wait until the index holds everything that was published.

        Between an offset of the index and the first one of Kafka there may have been the end of a transaction, and
        nothing else; nobody can look any more. But positions have no gaps: an event that was never indexed keeps the
        frontier below it.
        """
        published = await self.published()
        frontier, moved_at = await self._source.frontier(), time.monotonic()
        while frontier < published:
            await asyncio.sleep(WAIT_INTERVAL_S)
            if (now_at := await self._source.frontier()) > frontier:
                frontier, moved_at = now_at, time.monotonic()
            elif time.monotonic() - moved_at > INDEX_PATIENCE_S:
                place = next(place for place, low in lows.items() if found.offsets[place] < low)
                why = f"up to offset {lows[place] - 1}, and the index holds everything up to position {frontier} only"
                raise HistoryGoneError(*place, found.offsets[place], why)

    async def published(self) -> int:
        """Return the last position that can be in Kafka.

        Raises:
            PostgresUnavailableError: no answer.
        """
        return int((await self._fetch("published"))[0][0])

    async def before(self, since: datetime, categories: Collection[str] | None) -> int | None:
        """Return the position before the first event of a time or later; None when the index holds none.

        Raises:
            PostgresUnavailableError: no answer.
        """
        wanted = LogQuery(None if categories is None else tuple(sorted(categories)), since=since)
        found = await self._source.log(wanted, 0, 1)
        return found[0][POSITION] - 1 if found else None

    async def _fetch(self, statement: str) -> list[Any]:
        with postgres.translated(self._store, self._dsn):
            return await self._pool.fetch(self._sql[statement])

    async def complete(self, position: int, stop: asyncio.Event) -> None:
        """Wait until the index misses nothing up to a position. It was about to, unless the indexer has stopped."""
        waited_s = 0.0
        while not stop.is_set() and (frontier := await self._source.frontier()) < position:
            await wait_any(WAIT_INTERVAL_S, stop)
            waited_s += WAIT_INTERVAL_S
            if waited_s >= COMPLAINT_INTERVAL_S:
                waited_s = 0.0
                _log.warning("history.waits", frontier=frontier, until=position, hint="is the indexer running?")

    async def page(
        self,
        after: int,
        upto: int,
        categories: Collection[str] | None,
        types: Collection[str] | None,
        limit: int = PAGE_EVENTS,
    ) -> tuple[list[RecordedEvent], int]:
        """Return events after a position, none after ``upto``, and the position up to which these are all.

        Raises:
            PostgresUnavailableError: no answer.
        """
        wanted = LogQuery(
            None if categories is None else tuple(sorted(categories)),
            None if types is None else tuple(sorted(stored_types_of(types))),
        )
        rows = await self._source.log(wanted, after, limit)
        events = [
            event for event in await self._events(rows) if event.position is not None and event.position <= upto
        ]
        reached = events[-1].position if len(events) == limit else upto
        assert reached is not None
        return events, reached

    async def _events(self, rows: Sequence[Row]) -> list[RecordedEvent]:
        await self._codec.warm({row[SCHEMA_ID] for row in rows})
        return [RecordedEvent(row, self._codec) for row in rows]
