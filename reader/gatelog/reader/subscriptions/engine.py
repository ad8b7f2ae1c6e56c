"""Runs a subscription's handlers: in parallel, in order within a stream, with retries and parked events.

What may run next is decided by ``lanes``, what may be committed by ``window``, what follows from a failure by
``failures``. ``workers`` run the handlers, ``fates`` carries out what becomes of each event; here is what feeds them,
and what happens when partitions come and go.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gatelog.core import logs
from gatelog.core.errors import KafkaUnavailableError
from gatelog.core.telling import told
from gatelog.reader.subscriptions.fates import Fates
from gatelog.reader.subscriptions.group_reading import Begin, GroupReading
from gatelog.reader.subscriptions.parker import Parker
from gatelog.reader.subscriptions.places import Batch, Offsets, Place
from gatelog.reader.subscriptions.window import Window
from gatelog.reader.subscriptions.work import Counts, Item, Partition, Plan
from gatelog.reader.subscriptions.workers import CANCEL_S, Workers
from gatelog.schemas.codec import Codec

TICK_S: Final = 0.5
COMMIT_AGAIN_S: Final = 5.0  # when no answer came
WINDOW_EVENTS_MAX: Final = 20_000  # of a partition: done, and not to be committed before one that is not

_log = logs.logger("subscription")


class Engine:
    """Handles what a membership reads. ``run`` ends when it is told to stop, or when something is wrong."""

    def __init__(self, plan: Plan, codec: Codec, parker: Parker) -> None:
        """Nothing runs yet."""
        self._plan = plan
        self._parker = parker
        self._partitions: dict[Place, Partition] = {}
        self._fates = Fates(plan, codec, parker, self._wake, self._stopped, self._schedule_replays)
        self._lanes = self._fates.lanes
        self._workers = Workers(
            self._lanes, plan.concurrency, self._fates.handle, self._fates.abandon, self._fates.release, self._stopped
        )
        self._failure: BaseException | None = None
        self._member: GroupReading | None = None
        self._ends = asyncio.Event()

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        return self._fates.counts

    # --- the loop -------------------------------------------------------------------------------------

    def bind(self, reading: GroupReading) -> None:
        """See ``Handling``."""
        self._member = self._fates.member = reading

    async def run(self, member: GroupReading, stop: asyncio.Event) -> None:
        """Handle events until ``stop`` is set, a handler asks for the end, or something fails; then finish what runs.

        Raises:
            Exception: of a handler, when the failures say so; of what is read.
        """
        side = [asyncio.create_task(each) for each in (self._feed(member), self._tick(member), stop.wait())]
        ends = asyncio.create_task(self._ends.wait())
        try:
            await asyncio.wait([*side, ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*side, ends):
                task.cancel()
            results = await asyncio.gather(*side, return_exceptions=True)
            await self._finish()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        if self._failure is not None:
            raise self._failure

    async def _feed(self, member: GroupReading) -> None:
        while True:
            for batch in await member.next():
                self._accept(batch)
            self._wake()

    def _accept(self, batch: Batch) -> None:
        partition = self._partitions.get(batch.place)
        if partition is None or partition.is_closed:  # it goes away at this moment
            if self._member is not None:
                self._member.release(len(batch.events), batch.size_bytes)
            return
        partition.window.take(batch.offsets, batch.next_offset)
        last = batch.events[-1].position if batch.events else 0
        partition.position = max(partition.position, batch.reached, last)
        put, by_stream, place = self._lanes.put, self._plan.order == "stream", batch.place
        for event, offset in zip(batch.events, batch.offsets, strict=True):
            put(event.stream if by_stream else place, Item(event, offset, partition))

    async def _tick(self, member: GroupReading) -> None:
        """Commit, watch over what does not move, and follow the parked topic."""
        while True:
            await asyncio.sleep(TICK_S)
            self._fates.release()
            self.commit(member)
            self._watch(member)
            try:
                await self._parker.refresh()
            except KafkaUnavailableError as error:
                _log.warning("parked.unavailable", subscription=self._plan.subscription, error=told(error))
            self._schedule_replays()

    def commit(self, member: GroupReading) -> None:
        """Ask for a commit of what is done, where that has changed or was not acknowledged."""
        now, due = time.monotonic(), {}
        for partition in self._partitions.values():
            upto = partition.window.committable
            if upto > partition.sent or (
                upto > member.acknowledged(partition.place) and now - partition.sent_at > COMMIT_AGAIN_S
            ):
                partition.sent, partition.sent_at = upto, now
                due[partition.place] = upto
        if due:
            member.commit(due)

    def _watch(self, member: GroupReading) -> None:
        """Pause partitions that wait for one event, before they take all the room; end handlers that hang."""
        for partition in self._partitions.values():
            window = partition.window
            is_stuck = window.committable == partition.seen and window.unfinished > member.events_max // 2
            if not partition.is_paused and (is_stuck or window.uncommittable > WINDOW_EVENTS_MAX):
                partition.is_paused = True
                member.pause([partition.place])
            elif partition.is_paused and window.uncommittable < min(WINDOW_EVENTS_MAX, member.events_max) // 4:
                partition.is_paused = False
                member.resume([partition.place])
            partition.seen = window.committable
        if self._plan.handler_timeout_s is not None:
            latest, between = time.monotonic() - self._plan.handler_timeout_s, self._fates.between
            busy = self._workers.busy
            late = [w for w in busy if w.since < latest and w not in between and w.cancelled_for is None]
            self._workers.cancel(late, "timeout")

    async def _finish(self) -> None:
        """Let what runs come to its end, within the deadline."""
        self._fates.is_stopping = True
        for timer, _ in self._fates.timers.values():
            timer.cancel()
        self._fates.timers.clear()
        self._close_partitions(list(self._partitions.values()))
        if late := await self._workers.drain(self._plan.stop_timeout_s):
            _log.error("subscription.stop_timeout", handlers=late, timeout_s=self._plan.stop_timeout_s)
        self._fates.release()

    def _wake(self) -> None:
        self._workers.wake()

    def _stopped(self, error: BaseException | None) -> None:
        """A handler asked for the end, or something failed."""
        self._failure = self._failure or error
        if error is not None:
            self._workers.stop_at_once()
        self._ends.set()

    def _schedule_replays(self) -> None:
        view, hold = self._parker.view, self._plan.failures.hold_stream
        for stream in view.streams():
            for entry in view.due(stream, hold=hold):
                partition = self._partitions.get(entry.place)
                if partition is None or not partition.has_passed(entry):
                    break  # what follows it in its stream comes later, too
                if entry.event_id not in self._fates.replaying:
                    self._fates.replaying.add(entry.event_id)
                    key = stream if self._plan.order == "stream" else entry.place
                    self._lanes.put(key, Item(None, 0, partition, entry))
        self._wake()

    # --- partitions come and go -----------------------------------------------------------------------

    async def assigned(self, begins: Mapping[Place, Begin]) -> int:
        """See ``Handling``. What is parked is known before the first event is handled."""
        read_upto = await self._parker.refresh()
        for place, (start, position, settled) in begins.items():
            sent, known = (start - 1, read_upto) if settled is None else (start, settled)
            self._partitions[place] = Partition(place, Window(start), position or 0, known, sent)
        return read_upto

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        """See ``Handling``. What was handled is to be committed, so what stands before it is handled too; no more."""
        partitions = [each for place in places if (each := self._partitions.get(place)) is not None]
        self._close_partitions(partitions)
        await self._let_finish(partitions, max(0.0, self._plan.revoke_timeout_s - 2 * CANCEL_S))
        return {each.place: each.window.committable for each in partitions}

    async def lost(self, places: Sequence[Place]) -> None:
        """See ``Handling``. Others may handle the events already: what runs is cancelled."""
        partitions = [each for place in places if (each := self._partitions.get(place)) is not None]
        for partition in partitions:
            partition.is_closed = True
        self._wake_no_more()
        await self._let_finish(partitions, 0.0)

    def _close_partitions(self, partitions: Sequence[Partition]) -> None:
        """Drop what comes after all that is done or runs: between the two, offsets would be committed for nothing."""
        running: dict[int, int] = {}
        for worker in self._workers.busy:
            assert worker.item is not None
            of = id(worker.item.partition)
            running[of] = max(running.get(of, worker.item.offset), worker.item.offset)
        for partition in partitions:
            if not partition.is_closed:
                partition.is_closed = True
                done = partition.window.highest_done
                partition.upto = max(done, running.get(id(partition), done))
        self._drop(
            lambda item: item.partition.is_closed and (item.event is None or item.offset > item.partition.upto)
        )
        self._wake_no_more()
        self._wake()

    def _wake_no_more(self) -> None:
        """Events of closed partitions that rest are not taken again: their places in the lanes go to others."""
        timers = self._fates.timers
        for key in [key for key, (_, partition) in timers.items() if partition.is_closed]:
            timers.pop(key)[0].cancel()
            self._fates.attempts.pop(key, None)

    def _drop(self, is_dropped: Callable[[Item], bool]) -> None:
        self._fates.forget(self._lanes.drop(is_dropped, self._workers.taken.__contains__))

    async def _let_finish(self, partitions: Sequence[Partition], timeout_s: float) -> None:
        """Wait until nothing of the partitions runs or is ready; cancel what runs after the deadline."""
        await self._workers.let_finish(partitions, timeout_s)
        self._drop(lambda item: item.partition in partitions)
        late = [w for w in self._workers.busy if w.item is not None and w.item.partition in partitions]
        if late:
            _log.error("subscription.handlers_cancelled", subscription=self._plan.subscription, handlers=len(late))
            self._workers.cancel(late, "revoked")
            await self._workers.let_finish(partitions, CANCEL_S)
        for partition in partitions:
            partition.is_gone = True
            self._partitions.pop(partition.place, None)
        self._drop(lambda item: item.partition.is_gone)
        self._wake()

    # --- what status shows ----------------------------------------------------------------------------

    def facts(self) -> dict[str, object]:
        """Return how it is doing, for the heartbeat."""
        now = time.monotonic()
        busy = [worker.since for worker in self._workers.busy]
        return {
            "partitions": len(self._partitions),
            "waiting": self._lanes.count,
            "running": len(busy),
            "longest_s": round(now - min(busy), 1) if busy else 0.0,
            "retrying": len(self._fates.attempts),
            "handled": self.counts.handled,
            "failed": self.counts.failed,
            "skipped": self.counts.skipped,
            "parked": len(self._parker.view),
            "paused": sum(partition.is_paused for partition in self._partitions.values()),
        }
