"""Reads the index for the partitions of a group whose next records are gone from Kafka, and hands over to Kafka.

Within a partition, positions rise with offsets, and retention removes from the beginning. So, where Kafka's first
record has position F, what is gone is what the index has of this partition below F, and nothing else: from the index
up to F - 1, then from Kafka at its first record. Where Kafka has no record left, everything is told that the index
has by then, and records up to there are passed over. Kafka is paused meanwhile; what retention removes during that
time is told too.

Positions are the progress: each batch says up to which one it goes, and that is committed (see ``marks``).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from gatelog.core import logs
from gatelog.core.domain import category_of, topic_of
from gatelog.core.errors import KafkaUnavailableError, PostgresUnavailableError
from gatelog.core.identity import Identified
from gatelog.core.partitioning import partition_of
from gatelog.core.telling import told
from gatelog.reader.subscriptions.events import ENVELOPE_BYTES, KafkaEvent, kafka_record
from gatelog.reader.subscriptions.history import PAGE_EVENTS, History
from gatelog.reader.subscriptions.marks import before_kafka
from gatelog.reader.subscriptions.membership import Membership
from gatelog.reader.subscriptions.places import Batch, Joining, Place
from gatelog.reader.subscriptions.probing import Probe
from gatelog.reader.subscriptions.topics import Topics
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Record, RecordedEvent

FIRST_PAGE_EVENTS: Final = 256
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024  # by the average of the page before
BATCH_EVENTS_MAX: Final = 1_000
AGAIN_S: Final = 1.0
WAIT_S: Final = 0.5  # for room, or for a partition that was paused

_log = logs.logger("subscription")


@dataclass(slots=True, eq=False)
class Gone:
    """A partition whose next records are gone from Kafka."""

    place: Place
    after: int  # everything up to here is told, or was handled before
    low: int  # the first offset that Kafka has
    topic: str | None  # the id of the topic that Kafka has
    is_apart: bool = False  # what Kafka has does not tell what is gone: all is told that the index has
    since: datetime | None = None  # of what comes before the first event of this time, much may be left out
    upto: int | None = None  # Kafka has what comes after this; None: not known yet
    has_moved: bool = False  # ``low``, since the partition was assigned


class CatchingUp:
    """Tells what is gone, partition by partition, until each is handed over to Kafka."""

    def __init__(
        self,
        settings: Identified,
        history: History,
        codec: Codec,
        joining: Joining,
        member: Membership,
        handed_over: Callable[[Place, int], None],
    ) -> None:
        """``handed_over`` is called with a partition, and the position up to which the index told it."""
        self._settings = settings
        self._history = history
        self._codec = codec
        self._joining = joining
        self._member = member
        self._handed_over = handed_over
        self._topics = Topics(settings, joining.categories)
        self._partitions: dict[str, int] = {}
        self._gone: dict[Place, Gone] = {}
        self._paused: set[Place] = set()
        self._page_events = min(FIRST_PAGE_EVENTS, max(joining.events_max // 2, 1))
        self._stirred = asyncio.Event()  # there is room, or something else to do
        self._task: asyncio.Task[None] | None = None

    def __contains__(self, place: object) -> bool:
        """Say whether a partition is still read from the index."""
        return place in self._gone

    def add(self, gone: Iterable[Gone]) -> None:
        """Tell these too. Kafka is paused there."""
        self._gone |= {each.place: each for each in gone}
        if self._gone and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="subscription history")
        self._stirred.set()

    def drop(self, places: Iterable[Place]) -> None:
        """Tell no more of partitions that have gone elsewhere."""
        for place in places:
            self._gone.pop(place, None)
            self._paused.discard(place)

    def pause(self, places: Iterable[Place]) -> None:
        """Tell nothing of partitions until ``resume``."""
        self._paused |= set(places)

    def resume(self, places: Iterable[Place]) -> None:
        """Go on with partitions that were paused."""
        self._paused -= set(places)
        self._stirred.set()

    def stir(self) -> None:
        """Look again: there may be room."""
        self._stirred.set()

    async def close(self) -> None:
        """Tell no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._gone:
                try:
                    await self._step()
                except (PostgresUnavailableError, KafkaUnavailableError) as error:
                    _log.warning("subscription.history_waits", group=self._joining.group, error=told(error))
                    await asyncio.sleep(AGAIN_S)
        except Exception as error:  # noqa: BLE001 - it ends the subscription
            self._member.fail(error)

    async def _step(self) -> None:
        if new := [each for each in self._gone.values() if each.upto is None]:
            await self._limit(new)
        active = [
            each
            for each in self._gone.values()
            if each.place not in self._paused and self._member.assignment_of(each.place) is not None
        ]
        if not active or not self._member.has_room:
            await self._wait()
            return
        after, upto = min(each.after for each in active), max(each.upto or 0 for each in active)
        page, reached = await self._page(after, upto) if after < upto else ([], upto)
        for each in active:
            if self._gone.get(each.place) is each:  # it may have gone meanwhile, and even come back
                self._tell(each, page, reached)
        ended = [each for each in active if each.after >= (each.upto or 0) and self._gone.get(each.place) is each]
        if ended:
            await self._hand_over(ended)

    async def _wait(self) -> None:
        self._stirred.clear()
        try:
            async with asyncio.timeout(WAIT_S):
                await self._stirred.wait()
        except TimeoutError:
            pass

    # --- how far ----------------------------------------------------------------------------------------

    async def _limit(self, new: Sequence[Gone]) -> None:
        """Find out where Kafka goes on, and wait until the index holds everything before that."""
        lows = {each.place: each.low for each in new}
        whole = {each.place: each.low for each in new if not each.is_apart}
        firsts = await asyncio.to_thread(self._first_positions, whole)
        published = await self._history.published()
        needed = {place: firsts.get(place, published + 1) - 1 for place in lows}
        missing = [each for each in new if each.is_apart or each.since is not None or each.after < needed[each.place]]
        if missing:
            missing_lows = {each.place: each.low for each in missing}
            handover = await self._history.handover(missing_lows, {each.place[0]: each.topic for each in missing})
            for place in missing_lows:
                needed[place] = min(needed[place], handover.position) if place in firsts else handover.position
            for each in missing:
                if each.is_apart:
                    each.low, each.has_moved = handover.offsets[each.place], True
            _log.info(
                "subscription.history",
                group=self._joining.group,
                partitions=len(missing),
                after=min(each.after for each in missing),
                upto=max(needed[place] for place in missing_lows),
            )
            await self._history.complete(max(needed[place] for place in missing_lows), asyncio.Event())
            self._partitions = await self._topics.partitions()
        for each in new:
            upto = max(needed[each.place], each.after)
            if each.since is not None and each.after == 0:
                before = await self._history.before(each.since, self._joining.categories)
                each.after = upto if before is None else min(before, upto)
            each.upto = upto

    def _first_positions(self, lows: dict[Place, int]) -> dict[Place, int]:
        """Blocks."""
        with Probe(self._settings) as probe:
            return {place: record.position for place, (_, record, _) in probe.first(lows).items()}

    async def _hand_over(self, ended: Sequence[Gone]) -> None:
        """Go on in Kafka, where retention has not removed more meanwhile."""
        lows = await self._topics.beginnings([each.place for each in ended])
        for each in ended:
            place = each.place
            if self._gone.get(place) is not each:
                continue
            if lows[place] > each.low:
                each.low, each.upto, each.has_moved = lows[place], None, True
                continue
            assert each.upto is not None
            del self._gone[place]
            self._handed_over(place, each.upto)
            self._deliver(each, [], each.low)
            if each.has_moved:
                self._member.seek({place: each.low})
            if place not in self._paused:
                self._member.resume([place])

    # --- what is told -----------------------------------------------------------------------------------

    async def _page(self, after: int, upto: int) -> tuple[list[RecordedEvent], int]:
        limit = self._page_events
        page, reached = await self._history.page(after, upto, self._joining.categories, self._joining.types, limit)
        if len(page) == limit:
            size = sum(len(event.raw) for event in page) + limit
            most = min(PAGE_EVENTS, max(self._joining.events_max // 2, 1))
            self._page_events = max(1, min(2 * limit, most, PAGE_BYTES_MAX * limit // size))
        return page, reached

    def _tell(self, gone: Gone, page: Sequence[RecordedEvent], reached: int) -> None:
        """Deliver what a page has of a partition; and that there is no more up to its end."""
        assert gone.upto is not None
        events = [event for event in page if self._is_due(gone, event)]
        gone.after = max(gone.after, min(reached, gone.upto))
        records = [self._as_record(event) for event in events]
        for first in range(0, max(len(records), 1), BATCH_EVENTS_MAX):
            batch = records[first : first + BATCH_EVENTS_MAX]
            is_last = first + BATCH_EVENTS_MAX >= len(records)
            self._deliver(gone, batch, before_kafka((gone.after if is_last else batch[-1].position) + 1))

    def _is_due(self, gone: Gone, event: RecordedEvent) -> bool:
        assert event.position is not None
        assert gone.upto is not None
        return gone.after < event.position <= gone.upto and self._place_of(event.stream) == gone.place

    def _deliver(self, gone: Gone, events: list[KafkaEvent], next_offset: int) -> None:
        assignment = self._member.assignment_of(gone.place)
        if assignment is None:
            return  # it is going away at this moment; who has it next goes on at the last commit
        size = sum(ENVELOPE_BYTES + len(event.value) for event in events)
        offsets = [before_kafka(event.position) for event in events]
        self._member.tell([Batch(gone.place, assignment, events, offsets, next_offset, size)])

    def _place_of(self, stream: str) -> Place:
        topic = topic_of(self._settings.store, category_of(stream))
        partitions = self._partitions.get(topic)
        return topic, -1 if partitions is None else partition_of(stream, partitions)  # a topic may be gone as a whole

    def _as_record(self, event: RecordedEvent) -> KafkaEvent:
        """Return an event of the index as it was read from Kafka: handlers, and the parked topic, know no other."""
        record = Record(*event._row)
        source = self._settings.source
        headers, value = kafka_record(source, record)
        made = KafkaEvent(
            record.stream,
            record.version,
            record.position,
            record.type,
            record.schema_id,
            headers,
            value,
            source,
            self._codec,
        )
        made._record = record
        return made
