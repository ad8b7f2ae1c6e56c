"""Ticks: which events of the outbox are published together, and at which positions. See "due" in relay.sql.

The row "relay" is what survives: a tick is stored there before Kafka commits it, and comes again, the same, to
whoever takes over, until it is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeAlias

import asyncpg

from gatelog.core import postgres
from gatelog.core.errors import LogMismatchError, RelayFencedError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries

PACKAGE: Final = "gatelog.producer"
_ALL: Final = 2**63 - 1
Snapshot: TypeAlias = Any  # as asyncpg has it: xmin, xmax, the transactions that were running


@dataclass(frozen=True, slots=True)
class Mark:
    """A snapshot, and what is needed to find later what it did not see."""

    last_id: int
    xid: int
    snapshot: Snapshot

    @property
    def has_late(self) -> bool:
        """Whether transactions may have been running then, besides the one that took the snapshot."""
        _xmin, xmax, running = self.snapshot
        return bool(running) or xmax < self.xid


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is stored of a tick."""

    number: int
    events: int
    last_id: int  # outbox id of the last event
    ends_interval: bool  # nothing of its interval is left then


@dataclass(frozen=True, slots=True)
class Tick:
    """Events that are published together: at the positions from ``first`` on, or at ``positions``."""

    number: int
    first: int
    rows: Sequence[asyncpg.Record]
    positions: Sequence[int] | None = None


class Ticks:
    """The ticks of one relay, from its take-over on."""

    def __init__(self, connection: postgres.Connection, settings: Settings) -> None:
        """Work through ``connection``, which ``prepare`` has seen, and nobody else uses meanwhile."""
        self._connection = connection
        self._settings = settings
        self._sql = queries(PACKAGE, "relay.sql", settings.store)
        self._epoch = 0
        self._revision = 0
        self._number = 0
        self._after = 0
        self._done = self._upto = Mark(0, 0, None)
        self._is_open = False
        self._pending: Fixed | None = None
        self._rows: Sequence[asyncpg.Record] | None = None  # of the pending tick
        self._ahead: Sequence[asyncpg.Record] | None = None
        self._is_stored = True  # the row says what we know
        self.position = 0

    async def prepare(self) -> None:
        """Set a new connection up."""
        if postgres.is_lent(self._connection):
            self._connection.set_locally(self._sql["session"].replace("SET ", "SET LOCAL "))
        else:
            await self._connection.execute(self._sql["session"])
        # Text of a time is made from microseconds, a second's once: as datetime it is what costs most of a record.
        await self._connection.set_type_codec(
            "timestamptz", schema="pg_catalog", format="tuple", encoder=lambda us: (us,), decoder=lambda us: us[0]
        )

    async def take_over(self) -> asyncpg.Record:
        """Refuse every earlier relay from now on, and return what the last one left.

        Raises:
            LogMismatchError: the tables were restored from a dump since.
        """
        async with self._connection.transaction():
            await self._connection.execute(self._sql["take_over"])
            row = await self._connection.fetchrow(self._sql["stand"])
        assert row is not None
        if row["restarted"]:
            raise LogMismatchError(
                f"Store {self._settings.store!r}: its tables were restored from a dump, or some were lost and made "
                "anew. What was published cannot be told from them. Nothing was changed."
            )
        self._epoch, self._revision = row["epoch"], row["revision"]
        self._number, self.position = row["tick"], row["position"]
        self._done = Mark(row["done_id"], row["done_xid"], row["done_snapshot"])
        self._is_open = row["upto_snapshot"] is not None
        self._upto = Mark(row["upto_id"], row["upto_xid"], row["upto_snapshot"])
        self._after = row["after_id"]
        if row["pending_events"]:
            self._pending = Fixed(
                row["tick"], row["pending_events"], row["pending_last_id"], row["pending_ends_interval"]
            )
        return row

    async def next(self) -> Tick | None:
        """Return the pending tick, or the next one, which is not stored yet; None when nothing is due.

        Raises:
            RelayFencedError: another relay has taken over.
        """
        while self._pending is None:
            is_new = not self._is_open
            if is_new:
                mark = await self._connection.fetchrow(self._sql["mark"])
                assert mark is not None
                self._upto, self._is_open, self._after = Mark(*mark[:3]), True, 0
                self._is_stored = self._is_stored and not mark["is_awaited"]
            rows = await self._slice(self._after) if self._ahead is None else self._ahead
            self._ahead = None
            if rows:
                self._make(rows)
            else:
                self._done, self._is_open = self._upto, False
                if is_new:  # otherwise nothing was left of an interval that was open: on to the next
                    return None
        if self._rows is None:
            self._rows = await self._left_behind(self._pending)
        return Tick(self._pending.number, self.position + 1, self._rows)

    async def fix(self) -> None:
        """Store where the relay stands. A pending tick comes again then, the same, until it is done.

        To be called before Kafka commits a tick, and when nothing is due any more.

        Raises:
            RelayFencedError: another relay has taken over.
        """
        if not self._is_stored:
            await self._store(self._pending)

    @property
    def has_more(self) -> bool:
        """Whether something may follow the pending tick in its interval."""
        return self._pending is not None and not self._pending.ends_interval

    async def prefetch(self) -> None:
        """Fetch what follows the pending tick in its interval, while the tick is published."""
        if self._pending is not None and self.has_more and self._ahead is None:
            self._ahead = await self._slice(self._pending.last_id)

    def done(self) -> None:
        """Say that the pending tick was published."""
        assert self._pending is not None
        self.position += self._pending.events
        self._after = self._pending.last_id
        if self._pending.ends_interval:
            self._done, self._is_open = self._upto, False
        self._pending = self._rows = None
        self._is_stored = False

    async def checked(self, position: int, ends: str) -> None:
        """Store that Kafka was seen to hold exactly ``position`` at ``ends``."""
        await self._connection.execute(self._sql["checked"], self._epoch, position, ends)

    async def _slice(self, after: int) -> Sequence[asyncpg.Record]:
        return await self._due(after, _ALL, self._settings.tick_events_max, self._settings.tick_bytes_max)

    async def _left_behind(self, pending: Fixed) -> Sequence[asyncpg.Record]:
        """Fetch a tick that another relay has fixed."""
        rows = await self._due(self._after, pending.last_id, pending.events, _ALL)
        if len(rows) != pending.events:
            raise LogMismatchError(
                f"Store {self._settings.store!r}: tick {pending.number} has {pending.events:,} events, but the "
                f"outbox holds {len(rows):,} of them. Was it restored or edited by hand? Nothing was changed."
            )
        return rows

    async def _due(self, after: int, last_id: int, events_max: int, bytes_max: int) -> Sequence[asyncpg.Record]:
        done, upto, bounds = self._done, self._upto, (after, last_id, events_max, bytes_max)
        rows = await self._connection.fetch(
            self._sql["due"], *bounds, done.last_id, done.xid, done.snapshot, upto.snapshot
        )
        if not done.has_late:
            return rows
        late = await self._connection.fetch(self._sql["late"], *bounds, done.xid, done.snapshot, upto.snapshot)
        return _first([*rows, *late], events_max, bytes_max) if late else rows

    def _make(self, rows: Sequence[asyncpg.Record]) -> None:
        """Make a slice the next tick. If neither bound cut it, its interval ends there."""
        ends = (
            len(rows) < self._settings.tick_events_max
            and sum(len(row["value"]) for row in rows) < self._settings.tick_bytes_max
        )
        self._number += 1
        self._pending, self._rows = Fixed(self._number, len(rows), rows[-1]["id"], ends), rows
        self._is_stored = False

    async def _store(self, tick: Fixed | None) -> None:
        upto = self._upto if self._is_open else Mark(0, 0, None)
        revision = await self._connection.fetchval(
            self._sql["fix"],
            self._epoch,
            tick.number if tick else self._number,
            self.position,
            self._done.last_id,
            self._done.xid,
            self._done.snapshot,
            upto.last_id,
            upto.xid,
            upto.snapshot,
            self._after,
            tick.last_id if tick else 0,
            tick.events if tick else 0,
            tick is not None and tick.ends_interval,
            self._revision,
        )
        if revision is None:
            raise RelayFencedError(
                f"Epoch {self._epoch} of the relay is over: another relay has taken over, or a failover has lost "
                "what this one had stored."
            )
        self._revision = revision
        self._is_stored = True


def _first(rows: list[asyncpg.Record], events_max: int, bytes_max: int) -> list[asyncpg.Record]:
    """Return the first rows in outbox id order, at least one, as many as both bounds allow."""
    rows.sort(key=itemgetter("id"))
    total = 0
    for place, row in enumerate(rows):
        if place == events_max or total >= bytes_max:
            return rows[:place]
        total += len(row["value"])
    return rows
