"""What one member of a subscription reads, wherever it is: from the index what Kafka has forgotten, then from Kafka.

Between a membership, which knows offsets, and whoever handles the events: it finds out where each partition begins,
has ``catching_up`` tell what is gone, passes over what the index has told already, and commits positions too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, Protocol, Self

from gatelog.core import logs
from gatelog.core.errors import PostgresUnavailableError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.reader.subscriptions.catching_up import CatchingUp, Gone
from gatelog.reader.subscriptions.history import History
from gatelog.reader.subscriptions.kept_marks import KEEP_S, KeptMarks
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET, Mark, Marks, Trail, begins_before_kafka
from gatelog.reader.subscriptions.membership import Membership
from gatelog.reader.subscriptions.places import Batch, Joining, Offsets, Place
from gatelog.reader.subscriptions.refinding import located
from gatelog.reader.subscriptions.starts import Origin
from gatelog.reader.subscriptions.topics import Topics
from gatelog.schemas.codec import Codec

_log = logs.logger("subscription")


class Begin(NamedTuple):
    """Where a partition of ours begins, and the position up to which all of it was handled; None: not known.

    ``settled``: see ``Mark``. None: we have not committed this yet.
    """

    offset: int
    position: int | None
    settled: int | None


class Handling(Protocol):
    """Who handles what is read. As ``Owner``, but told where partitions begin."""

    def bind(self, reading: "GroupReading") -> None:
        """Take note of what is read; called once, first."""
        ...

    async def assigned(self, begins: Mapping[Place, Begin]) -> int:
        """These partitions are ours from now on; return what ``settled`` is where that is not known."""
        ...

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        """Finish or give up what is in hand of ``places``; return up to where each is handled."""
        ...

    async def lost(self, places: Sequence[Place]) -> None:
        """Give up ``places``: others may have them already, and nothing can be committed."""
        ...


class GroupReading:
    """The events of a group's partitions that are ours, in order. Make it with ``joined``."""

    def __init__(
        self,
        settings: Identified,
        joining: Joining,
        codec: Codec,
        history: History,
        origin: Callable[[], Awaitable[Origin]],
        handling: Handling,
        kept: KeptMarks,
    ) -> None:
        """Use ``joined`` instead."""
        self._settings = settings
        self._joining = joining
        self._codec = codec
        self._history = history
        self._origin = origin
        self._handling = handling
        self._kept = kept
        self._marked: dict[Place, Mark] = {}  # what was committed, or asked to be
        self._topics = Topics(settings, joining.categories)
        self._trails: dict[Place, Trail] = {}
        self._since: datetime | None = None  # nothing is handled before the first event of this time, or later
        self._told: dict[Place, int] = {}  # what Kafka has up to here was told by the index, or handled before
        self._doubted: set[Place] = set()  # partitions where records were missing before the next one
        self.member: Membership
        self._catching_up: CatchingUp

    @classmethod
    @asynccontextmanager
    async def joined(
        cls,
        settings: Identified,
        joining: Joining,
        codec: Codec,
        history: History,
        origin: Callable[[], Awaitable[Origin]],
        handling: Handling,
        kept: KeptMarks,
    ) -> AsyncIterator[Self]:
        """Join the group; at the end ask ``handling`` to finish, commit, and leave at once.

        ``origin`` says where the subscription began, ``kept`` where it was, should Kafka not know.

        Raises:
            SettingsError: Kafka is not configured, or refused the credentials.
        """
        reading = cls(settings, replace(joining, begins_again=True), codec, history, origin, handling, kept)
        handling.bind(reading)
        await origin()  # "now" is before the group is joined: partitions, and topics, may come much later
        async with reading._keeping(), Membership.joined(settings, reading._joining, codec, reading):
            try:
                yield reading
            finally:
                await reading._catching_up.close()

    @asynccontextmanager
    async def _keeping(self) -> AsyncIterator[None]:
        """Keep the marks, every few seconds and at the end. Postgres away is no reason to stop."""

        async def keep() -> None:
            with suppress(PostgresUnavailableError):
                await self._kept.keep(self._marked)

        async def go_on() -> None:
            while True:
                await asyncio.sleep(KEEP_S)
                await keep()

        task = asyncio.create_task(go_on(), name="subscription marks")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await keep()

    async def next(self, timeout: float | None = None) -> list[Batch]:
        """Wait for what comes next: batches, one after the other within a partition. See ``Membership.next``.

        Raises:
            HistoryGoneError: the next events of a partition are neither in Kafka nor in the index.
            IndexPlaceError: they are gone from Kafka, and the index is where it cannot be asked.
            KafkaUnavailableError: Kafka was not found at all.
            Exception: what ``handling`` raised when it was asked.
        """
        found: list[Batch] = []
        batches = await self.member.next(timeout)
        for nth, batch in enumerate(batches):
            if self._lacks_records(batch):
                self._doubted.add(batch.place)
                for each in batches[nth:]:
                    self.member.release(len(each.events), each.size_bytes)
                await self.member.join_again()
                break
            found.append(self._taken(batch))
        return found

    def _lacks_records(self, batch: Batch) -> bool:
        """Say whether records are missing before a batch, whatever its offsets say: Kafka's log is another one."""
        trail = self._trails.get(batch.place)
        if trail is None or trail.reached is None or batch.needs <= trail.reached:
            return False
        topic, partition = batch.place
        _log.warning(
            "subscription.records_missing",
            group=self._joining.group,
            topic=topic,
            partition=partition,
            after=trail.reached,
            upto=batch.needs,
        )
        return True

    def _taken(self, batch: Batch) -> Batch:
        trail = self._trails.get(batch.place)
        if trail is None:
            return batch  # it is going away at this moment, and nobody will handle it
        comes_from_kafka = batch.reached > 0
        if comes_from_kafka and batch.place in self._told:
            batch = self._without_told(batch)
        if trail.waits:
            batch = self._without_earlier(batch, trail)
        if comes_from_kafka:
            trail.epoch = batch.epoch
            trail.took(batch.offsets, [event.position for event in batch.events], batch.next_offset, batch.reached)
        return batch

    def _without_told(self, batch: Batch) -> Batch:
        """Pass over what was told; once there is something else, nothing more of it comes."""
        told = self._told[batch.place]
        passed = sum(event.position <= told for event in batch.events)
        if passed < len(batch.events):
            del self._told[batch.place]
        return self._without(batch, passed)

    def _without_earlier(self, batch: Batch, trail: Trail) -> Batch:
        """Pass over what comes before the first event of the time at which the group begins."""
        for nth, event in enumerate(batch.events):
            with suppress(UndecodableRecordError):  # nobody knows its time
                if self._since is None or event.recorded_at >= self._since:
                    trail.met(batch.offsets[nth])
                    return self._without(batch, nth)
        return self._without(batch, len(batch.events))

    def _without(self, batch: Batch, passed: int) -> Batch:
        """Return a batch without its first events."""
        if not passed:
            return batch
        kept = batch.events[passed:]
        size = batch.size_bytes * len(kept) // len(batch.events)
        self.member.release(passed, batch.size_bytes - size)
        return replace(batch, events=kept, offsets=batch.offsets[passed:], size_bytes=size)

    def release(self, events: int, size_bytes: int) -> None:
        """Say that ``events`` which ``next`` returned are done with: there is room for as many."""
        self.member.release(events, size_bytes)
        self._catching_up.stir()

    @property
    def events_max(self) -> int:
        """How many events may be in hand."""
        return self._joining.events_max

    def acknowledged(self, place: Place) -> int:
        """Return the offset of a partition of ours that Kafka has last said to be committed; -1: none yet."""
        return self.member.acknowledged(place)

    def pause(self, places: Sequence[Place]) -> None:
        """Read nothing more of ``places`` until ``resume``. What is on its way already still arrives."""
        self._catching_up.pause(places)
        self.member.pause(places)

    def resume(self, places: Sequence[Place]) -> None:
        """Read ``places`` again."""
        self._catching_up.resume(places)
        self.member.resume([place for place in places if place not in self._catching_up])

    def commit(self, offsets: Offsets) -> None:
        """Commit up to where partitions are handled, without waiting. See ``Membership.commit``."""
        self.member.commit(self._marks(offsets))

    def _marks(self, offsets: Offsets) -> Marks:
        marks = {p: self._trails[p].mark(offset) for p, offset in offsets.items() if p in self._trails}
        self._marked |= marks
        return marks

    def _handed_over(self, place: Place, position: int) -> None:
        self._trails[place].told(position)
        self._told[place] = position

    # --- partitions come and go (see ``Owner``) -------------------------------------------------------

    def bind(self, member: Membership) -> None:
        """See ``Owner``."""
        self.member = member
        self._catching_up = CatchingUp(
            self._settings, self._history, self._codec, self._joining, member, self._handed_over
        )

    async def assigned(self, places: Sequence[Place]) -> Marks:
        """Begin where the group stands, or as was decided; with the index where Kafka does not reach back."""
        lows = await self._topics.beginnings(places)
        known = await self._kept.read(places) | await self.member.committed(places)
        # Where the group waits for a time, it has handled nothing, and begins as was decided.
        known = {place: mark for place, mark in known.items() if not mark.waits}
        begun = known | await self._marks_begun([place for place in places if place not in known])
        doubted = {p: begun[p]._replace(offset=UNKNOWN_OFFSET) for p in self._doubted.intersection(places)}
        self._doubted.difference_update(places)
        marks = await located(self._settings, self._topics, begun | doubted)
        gone: dict[Place, Gone] = {}
        for place in [place for place, mark in marks.items() if mark.offset < lows[place]]:
            if marks[place].position is None:  # it is not known: from where the group began
                origin = await self._begun()
                marks[place] = marks[place]._replace(position=origin.handled, waits=origin.at is not None)
            mark = marks[place]
            since = self._since if mark.waits else None
            gone[place] = Gone(
                place, mark.position or 0, lows[place], mark.topic, mark.offset == UNKNOWN_OFFSET, since
            )
        settled = await self._handling.assigned(
            {
                place: Begin(
                    begins_before_kafka(mark.position) if place in gone else mark.offset, mark.position, mark.settled
                )
                for place, mark in marks.items()
            }
        )
        for place, mark in marks.items():
            decided = settled if mark.settled is None else mark.settled
            begin = begun[place]._replace(position=mark.position, settled=decided, waits=mark.waits)
            self._trails[place] = Trail(begin, mark)
            if mark.position is not None:
                self._told[place] = mark.position
        self.member.begin_paused(gone)
        self._catching_up.add(gone.values())
        return {
            place: Mark(lows[place], topic=mark.topic) if place in gone else mark for place, mark in marks.items()
        }

    async def _marks_begun(self, places: Sequence[Place]) -> dict[Place, Mark]:
        """Return where partitions begin of which nothing was handled yet."""
        return await (await self._begun()).marks_of(self._settings, places) if places else {}

    async def _begun(self) -> Origin:
        origin = await self._origin()
        self._since = origin.at
        return origin

    async def revoked(self, places: Sequence[Place]) -> Marks:
        """Have what is in hand finished or given up."""
        self._catching_up.drop(places)
        marks = self._marks(await self._handling.revoked(places))
        self._forget(places)
        return marks

    async def lost(self, places: Sequence[Place]) -> None:
        """Have everything given up: others may handle it already."""
        self._catching_up.drop(places)
        await self._handling.lost(places)
        self._forget(places)

    def _forget(self, places: Iterable[Place]) -> None:
        for place in places:
            self._trails.pop(place, None)
            self._told.pop(place, None)
