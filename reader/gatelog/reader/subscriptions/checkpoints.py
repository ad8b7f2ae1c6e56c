"""Checkpoints of a projection: who may write from a partition, and how far it has come. Committed with its rows."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from gatelog.core import logs, postgres
from gatelog.core.errors import GatelogError
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.marks import Mark
from gatelog.reader.subscriptions.merge import Place
from gatelog.schemas.envelope import RecordedEvent

PACKAGE: Final = "gatelog.reader"
SQL_FILE: Final = "subscriptions/projections.sql"
LOCK_TIMEOUT_MS: Final = 2_000  # that a batch of the last holder may take; who has it for longer is evicted

_log = logs.logger("projection")


class PartitionLostError(GatelogError):
    """Another member has claimed a partition, or another build has become the live one. Nothing was written."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything up to ``position`` is handled; Kafka goes on at ``next_offset``.

    ``epoch``: of the newest record that was read when that was so; ``topic``: the id of the topic. See ``Mark``.
    """

    position: int
    next_offset: int
    epoch: int | None = None
    topic: str | None = None

    @property
    def mark(self) -> Mark:
        """The same, as the client is told where to begin."""
        return Mark(self.next_offset, self.position, self.epoch, self.topic)


def checkpoint_of(mark: Mark) -> Checkpoint:
    """Return the checkpoint of a mark whose position is known."""
    return Checkpoint(mark.position or 0, mark.offset, mark.epoch, mark.topic)


@dataclass(frozen=True, slots=True)
class Move:
    """A partition moves to a checkpoint, by so many events."""

    upto: Checkpoint
    events: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Events, and where the partitions are when they are handled."""

    events: list[RecordedEvent]
    moves: dict[Place, Move]


@dataclass(frozen=True, slots=True)
class Work:
    """The transaction of a batch, as it is when it begins."""

    transaction: str
    search_path: str


@dataclass(frozen=True, slots=True)
class Holder:
    """The session in which a member handles batches: it is ended when it holds what it has lost."""

    pid: int
    since: datetime


async def holder_of(connection: postgres.Connection, store: str) -> Holder:
    """Return who a member is to the others."""
    row = await connection.fetchrow(queries(PACKAGE, SQL_FILE, store)["session"])
    assert row is not None
    return Holder(row["pid"], row["backend_start"])


class Checkpoints:
    """The checkpoints of one build as one member has them."""

    def __init__(self, store: str, projection: str, build: int, state: str, start: Checkpoint) -> None:
        """``state``: of the build, while we may write. ``start``: where a partition begins that nobody has met."""
        self._sql = queries(PACKAGE, SQL_FILE, store)
        self._build = (projection, build)
        self._state = state
        self._start = start
        self._generations: dict[Place, int] = {}
        self._at: dict[Place, Checkpoint] = {}

    def __getitem__(self, place: Place) -> Checkpoint:
        """Return where a partition of ours is."""
        return self._at[place]

    def __contains__(self, place: Place) -> bool:
        """Say whether a partition is ours, as far as we know."""
        return place in self._at

    @property
    def places(self) -> Collection[Place]:
        """Partitions that are ours, as far as we know."""
        return self._at.keys()

    async def claim(self, connection: postgres.Connection, holder: Holder, places: Collection[Place]) -> None:
        """Take partitions over. A batch that their last holder has open is waited for, but not for long.

        ``connection``: not the one in which batches are handled.

        Raises:
            PartitionLostError: the build was retired, dropped, or made the live one; or it is about to be.
        """
        topics, numbers = [topic for topic, _ in places], [partition for _, partition in places]
        try:
            await self._claim(connection, holder, topics, numbers)
        except asyncpg.LockNotAvailableError:
            evicted = await connection.fetch(self._sql["evict"], *self._build, topics, numbers)
            _log.warning("projection.evicted", projection=self._build[0], sessions=len(evicted))
            try:
                await self._claim(connection, holder, topics, numbers)
            except asyncpg.LockNotAvailableError as error:
                raise self._replaced() from error

    async def _claim(
        self, connection: postgres.Connection, holder: Holder, topics: list[str], numbers: list[int]
    ) -> None:
        sql, start = self._sql, self._start
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            if not await connection.fetchval(sql["is_in_state"], *self._build, self._state):
                raise self._replaced()
            await connection.execute(sql["meet"], *self._build, topics, numbers, start.position, start.next_offset)
            claimed = await connection.fetch(sql["claim"], *self._build, topics, numbers, holder.pid, holder.since)
            rows = await connection.fetch(sql["offsets"], *self._build, topics, numbers)
        assert len(claimed) == len(rows) == len(topics)
        for row in claimed:
            self._generations[row["topic"], row["partition"]] = row["generation"]
        for row in rows:
            self._at[row["topic"], row["partition"]] = Checkpoint(
                row["position"], row["next_offset"], row["leader_epoch"], row["topic_id"]
            )

    def _replaced(self) -> PartitionLostError:
        return PartitionLostError(
            f"Projection {self._build[0]!r}: build {self._build[1]} is not {self._state} any more, or somebody "
            "decides on that now. Nothing was claimed; this member joins again."
        )

    def forget(self, places: Collection[Place]) -> None:
        """Give partitions up."""
        for place in places:
            self._at.pop(place, None)

    async def advance(self, connection: postgres.Connection, moves: Mapping[Place, Move]) -> Work:
        """Move partitions in the transaction that ``connection`` has open; ``moved`` when it is committed.

        Raises:
            PartitionLostError: another member has claimed one of them, or the build was replaced.
        """
        places = list(moves)
        moved = await connection.fetch(
            self._sql["advance"],
            *self._build,
            [topic for topic, _ in places],
            [partition for _, partition in places],
            [self._generations[place] for place in places],
            [self._at[place].position for place in places],
            [self._at[place].next_offset for place in places],
            [moves[place].upto.position for place in places],
            [moves[place].upto.next_offset for place in places],
            [moves[place].events for place in places],
            self._state,
            [moves[place].upto.epoch for place in places],
            [moves[place].upto.topic for place in places],
        )
        if len(moved) < len(places):
            raise PartitionLostError(
                f"Projection {self._build[0]!r} build {self._build[1]}: {len(places) - len(moved)} of {len(places)} "
                "partitions of a batch belong to another member now, or another build has become the live one. "
                "Nothing of the batch was written; this member joins again."
            )
        return Work(moved[0]["transaction"], moved[0]["search_path"])

    async def is_open(self, connection: postgres.Connection, work: Work) -> bool:
        """Say whether the transaction of a batch is still the one that ``connection`` has open.

        Raises:
            asyncpg.InFailedSQLTransactionError: it is, but an error in it was caught, and COMMIT would undo it.
        """
        return bool(await connection.fetchval(self._sql["is_open"], work.transaction))

    def moved(self, moves: Mapping[Place, Move]) -> None:
        """Go on from where the moves have led."""
        for place, move in moves.items():
            if place in self._at:
                self._at[place] = move.upto
