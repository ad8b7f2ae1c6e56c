"""One session of a projection's member: a connection for batches, claims of partitions, and events to apply.

Two kinds. ``PartitionSession`` shares partitions with other members of a consumer group. ``OrderedSession`` reads all
of them in one total order; other members stand by until it has been silent for some seconds.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

import asyncpg

from gatelog.core import kafka, logs, postgres
from gatelog.core.domain import category_of, topic_of
from gatelog.core.errors import HistoryGoneError, PostgresUnavailableError
from gatelog.core.identity import Identified, identified
from gatelog.core.leases import Standstill
from gatelog.core.partitioning import partition_of
from gatelog.core.services import wait_any
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.applying import Applier, Connection, Function
from gatelog.reader.subscriptions.builds import Build, Builds
from gatelog.reader.subscriptions.checkpoints import (
    PACKAGE,
    SQL_FILE,
    Batch,
    Checkpoint,
    Checkpoints,
    Holder,
    Move,
    PartitionLostError,
    checkpoint_of,
    holder_of,
)
from gatelog.reader.subscriptions.history import Handover, History
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET, Mark, Marks
from gatelog.reader.subscriptions.membership import Membership
from gatelog.reader.subscriptions.merge import Place
from gatelog.reader.subscriptions.ordered import TotalOrder
from gatelog.reader.subscriptions.places import Batch as Arrived
from gatelog.reader.subscriptions.places import Joining
from gatelog.reader.subscriptions.refinding import located, missing_before
from gatelog.reader.subscriptions.topics import Topics
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.registries import registry_of

BATCH_EVENTS_MAX: Final = 5_000
POLL_S: Final = 0.25
LEASE_S: Final = 6.0  # of silence, after which a member that stands by takes over
BEAT_INTERVAL_S: Final = 1.0

_log = logs.logger("projection")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a projection reads, and what it does with it."""

    name: str
    categories: tuple[str, ...] | None
    types: frozenset[str] | None
    function: Function
    start: Checkpoint


class _Session:
    """What both kinds share."""

    def __init__(
        self,
        settings: Identified,
        plan: Plan,
        build: Build,
        connection: Connection,
        target: postgres.Pool,
        store: postgres.Pool,
        dsn: str,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._build = build
        self._connection = connection
        self._target = target
        self._dsn = dsn
        self._sql = queries(PACKAGE, SQL_FILE, settings.store)
        self._codec = Codec(registry_of(settings, store), register=False)
        self._history = History(settings, store, self._codec)
        self._topics = Topics(settings, plan.categories)
        self._partitions: dict[str, int] = {}
        self._checkpoints = Checkpoints(settings.store, plan.name, build.number, build.state, plan.start)
        self._holder: Holder | None = None
        self._applier = Applier(
            plan.name,
            connection,
            (settings.store, dsn),
            self._checkpoints,
            plan.function,
            plan.types,
            self._place_of,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Apply events until ``stop`` is set."""
        raise NotImplementedError

    def _place_of(self, event: RecordedEvent) -> Place:
        topic = topic_of(self._settings.store, category_of(event.stream))
        return topic, partition_of(event.stream, self._partitions[topic])

    async def _claim(self, places: Collection[Place]) -> None:
        if not self._partitions.keys() >= {topic for topic, _ in places}:
            self._partitions = await self._topics.partitions()
        with postgres.translated(self._settings.store, self._dsn):
            if self._holder is None:
                self._holder = await holder_of(self._connection, self._settings.store)
            async with self._target.acquire() as connection:
                await self._checkpoints.claim(connection, self._holder, places)


class PartitionSession(_Session):
    """A member of a consumer group, whose offsets are in Postgres: the group shares out partitions, nothing else."""

    def _prepare(self) -> None:
        self._busy = asyncio.Lock()
        self._handovers: dict[Place, Handover] = {}  # partitions whose next events are gone from Kafka
        self._turns: dict[Place, int] = {}  # tells what came before a partition went and came back

    async def run(self, stop: asyncio.Event) -> None:
        """Join, and apply what comes, until ``stop`` is set; then finish the batch and leave.

        Raises:
            PartitionLostError: another build is live, or another member has claimed a partition of a batch.
            HistoryGoneError: records went from Kafka before they were read; the next session asks the index.
            ProjectionFailedError: the function raised an error.
            KafkaUnavailableError, PostgresUnavailableError: no answer.
        """
        self._prepare()
        plan, settings = self._plan, self._settings
        joining = Joining(
            settings.named("projection", plan.name, self._build.number),
            plan.categories,
            events_max=BATCH_EVENTS_MAX * 2,
        )
        async with Membership.joined(settings, joining, self._codec, self) as member:
            while not stop.is_set():
                arrived = await self._arrived(member)
                while self._handovers and not stop.is_set():  # what has arrived comes after what the index tells
                    await self._tell_history(stop)
                if arrived and not stop.is_set():
                    async with self._busy:
                        due, lacks = self._batch(arrived)
                        await self._applier.apply(due)
                    if lacks is not None:
                        raise lacks
                for batch, _ in arrived:
                    member.release(len(batch.events), batch.size_bytes)

    async def _arrived(self, member: Membership) -> list[tuple[Arrived, int]]:
        """Take what is there, up to a batch, and at least wait for something."""
        found: list[tuple[Arrived, int]] = []
        events, wait_s = 0, POLL_S
        while events < BATCH_EVENTS_MAX and (batches := await member.next(wait_s)):
            wait_s = 0
            for batch in batches:
                events += len(batch.events)
                found.append((batch, self._turns.get(batch.place, 0)))
        return found

    def _batch(self, arrived: Sequence[tuple[Arrived, int]]) -> tuple[Batch, HistoryGoneError | None]:
        """Put together what has arrived; up to where records are missing: there, the index tells what to do next."""
        events: list[RecordedEvent] = []
        moves: dict[Place, Move] = {}
        for batch, turn in arrived:
            place = batch.place
            if place not in self._checkpoints or self._turns.get(place, 0) != turn:
                continue  # it went, perhaps to another member, while this was on its way
            at, count = (moves[place].upto, moves[place].events) if place in moves else (self._checkpoints[place], 0)
            if batch.needs > at.position:
                moves[place] = Move(replace(at, next_offset=UNKNOWN_OFFSET, epoch=None), count)
                offset = batch.offsets[0] if batch.offsets else None
                return Batch(events, moves), missing_before(place, offset, at.position, batch.needs)
            new = batch.events
            if new and (new[0].position or 0) <= at.position:  # the index told it
                new = [event for event in new if event.position is not None and event.position > at.position]
            upto = Checkpoint(max(at.position, batch.reached), batch.next_offset, batch.epoch, at.topic)
            moves[place] = Move(upto, count + len(new))
            events += new
        return Batch(events, moves), None

    # --- history ----------------------------------------------------------------------------------

    async def _tell_history(self, stop: asyncio.Event) -> None:
        """Apply one page of the index. What Kafka has meanwhile waits, bounded."""
        upto = max(handover.position for handover in self._handovers.values())
        await self._history.complete(upto, stop)
        async with self._busy:
            if stop.is_set() or not self._handovers:
                return
            after = min(self._checkpoints[place].position for place in self._handovers)
            page: list[RecordedEvent] = []
            if after < upto:
                page, after = await self._history.page(after, upto, self._plan.categories, self._plan.types)
            await self._applier.apply(self._page(page, after))
            for place in [p for p, handover in self._handovers.items() if after >= handover.position]:
                del self._handovers[place]

    def _page(self, page: Sequence[RecordedEvent], reached: int) -> Batch:
        events, counts = [], dict.fromkeys(self._handovers, 0)
        for event in page:
            place = self._place_of(event)
            handover = self._handovers.get(place)
            assert event.position is not None
            if handover is not None and self._checkpoints[place].position < event.position <= handover.position:
                events.append(event)
                counts[place] += 1
        moves = {}
        for place, handover in self._handovers.items():
            at = self._checkpoints[place]
            told = reached >= handover.position
            position = max(at.position, min(reached, handover.position))
            offset = max(at.next_offset, handover.offsets[place]) if told else at.next_offset
            upto = Checkpoint(position, offset, None if told else at.epoch, at.topic)
            moves[place] = Move(upto, counts[place])
        return Batch(events, moves)

    # --- partitions come and go (see ``Owner``) -----------------------------------------------------

    def bind(self, member: Membership) -> None:
        """Nothing is asked of the membership here."""

    async def assigned(self, places: Sequence[Place]) -> Marks:
        """Claim partitions; go on where Postgres says, or where the index hands over."""
        lows = await self._topics.beginnings(places)
        async with self._busy:
            await self._claim(places)
            marks = {place: self._checkpoints[place].mark for place in places}
            now = await located(self._settings, self._topics, marks)
            if moved := {place: Move(checkpoint_of(mark), 0) for place, mark in now.items() if mark != marks[place]}:
                await self._applier.apply(Batch([], moved))
            gone = {place: lows[place] for place, mark in now.items() if mark.offset < lows[place]}
            if gone:
                handover = await self._history.handover(gone, {place[0]: now[place].topic for place in gone})
                self._handovers |= dict.fromkeys(gone, handover)
                _log.info(
                    "projection.history", projection=self._plan.name, partitions=len(gone), upto=handover.position
                )
            self._turn(places)
        begin = {place: self._checkpoints[place].mark for place in places}
        after = {p: max(begin[p].offset, self._handovers[p].offsets[p]) for p in gone}
        return begin | {p: Mark(offset, topic=begin[p].topic) for p, offset in after.items()}

    async def revoked(self, places: Sequence[Place]) -> Marks:
        """Finish the batch in hand, then give partitions up. Nothing is committed to Kafka."""
        async with self._busy:
            self._forget(places)
        return {}

    async def lost(self, places: Sequence[Place]) -> None:
        """Give partitions up. A batch in hand is refused if somebody has claimed them."""
        self._forget(places)

    def _forget(self, places: Sequence[Place]) -> None:
        self._checkpoints.forget(places)
        for place in places:
            self._handovers.pop(place, None)
        self._turn(places)

    def _turn(self, places: Sequence[Place]) -> None:
        for place in places:
            self._turns[place] = self._turns.get(place, 0) + 1


class OrderedSession(_Session):
    """The one member that works, as long as it says that it is alive."""

    async def run(self, stop: asyncio.Event) -> None:
        """Stand by until no other member works; then apply everything in order, until ``stop`` is set.

        Raises:
            PartitionLostError: another build is live, or another member has taken over.
            LogMismatchError: positions are missing.
            HistoryGoneError, ProjectionFailedError, KafkaUnavailableError, PostgresUnavailableError: see above.
        """
        me, standstill = uuid4(), Standstill(LEASE_S)
        frozen_at: int | None = None
        while not await self._lease(me, frozen_at):
            await wait_any(BEAT_INTERVAL_S / 2, stop)
            if stop.is_set():
                return
            lease = next(iter(await self._fetch("leased")), None)
            frozen_at = lease["beat"] if lease is not None and standstill.is_too_long(lease) else None
        _log.info("projection.leads", projection=self._plan.name, build=self._build.number)
        try:
            await self._work(me, stop)
        finally:
            with suppress(PostgresUnavailableError):
                await self._fetch("release_lease", me)

    async def _work(self, me: object, stop: asyncio.Event) -> None:
        read = {row["topic"] for row in await self._fetch("topics_read")}
        if self._topics.wanted is not None:
            read &= self._topics.wanted
        order = TotalOrder(self._settings, self._codec, self._history, self._plan.categories, self._meet, read)
        beating = asyncio.create_task(self._beat(me))
        try:
            async for batch in order.batches(stop):
                if beating.done():
                    beating.result()
                if batch.moves:
                    await self._applier.apply(batch)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await order.close()

    async def _meet(self, places: Collection[Place]) -> Mapping[Place, Checkpoint]:
        await self._claim(places)
        return {place: self._checkpoints[place] for place in places}

    async def _beat(self, me: object) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL_S)
            if not await self._lease(me):
                raise PartitionLostError(f"Projection {self._plan.name!r}: another member has taken over.")

    async def _lease(self, me: object, frozen_at: int | None = None) -> bool:
        return bool(await self._fetch("lease", me, frozen_at))

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
        with postgres.translated(self._settings.store, self._dsn):
            return await self._target.fetch(self._sql[statement], self._plan.name, self._build.number, *arguments)


@asynccontextmanager
async def opened(
    settings: Settings, plan: Plan, build: Build, builds: Builds, dsn: str, kind: Callable[..., _Session]
) -> AsyncIterator[_Session]:
    """Yield a session of a build, with its connections.

    Raises:
        PostgresUnavailableError: no answer.
    """
    name = f"gatelog projection {plan.name}"
    async with (
        postgres.pool(settings.dsn, settings.store, name, 2) as store,
        postgres.pool(dsn, settings.store, name, 2) as target,
    ):
        connection = await postgres.connect(dsn, settings.store, name, search_path=True)
        try:
            await builds.enter(connection, build.number, build.state)
            yield kind(await identified(settings, store), plan, build, connection, target, store, dsn)
        finally:
            await connection.close(timeout=kafka.REQUEST_TIMEOUT_S)
