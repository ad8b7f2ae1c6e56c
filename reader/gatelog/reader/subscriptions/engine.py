"""Runs a subscription's handlers: in parallel, in order within a stream, with retries and parked events.

What may run next is decided by ``lanes``, what may be committed by ``window``, what follows from a failure by
``failures``; here is what carries it out. It is the owner of a membership.
"""

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Protocol

from gatelog.core import logs
from gatelog.core.errors import GatelogError, HandlerTimeoutError, KafkaUnavailableError
from gatelog.reader.subscriptions.failures import (
    Done,
    Failures,
    Later,
    Outcome,
    Parked,
    Skipped,
    Stopped,
    judge,
)
from gatelog.reader.subscriptions.lanes import Lanes
from gatelog.reader.subscriptions.membership import Membership
from gatelog.reader.subscriptions.parked import Entry, ParkedEvent
from gatelog.reader.subscriptions.parker import Parker
from gatelog.reader.subscriptions.parsing import ENVELOPE_BYTES
from gatelog.reader.subscriptions.places import Batch, Offsets, Place
from gatelog.reader.subscriptions.window import Window
from gatelog.schemas.causation import handling
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent, parse_record
from gatelog.schemas.parts import as_read, is_unknown

TICK_S: Final = 0.5
COMMIT_AGAIN_S: Final = 5.0  # when no answer came
WINDOW_EVENTS_MAX: Final = 20_000  # of a partition: done, and not to be committed before one that is not
SLICE_S: Final = 0.02  # a handler that never waits must let the others run
RELEASE_EVENTS: Final = 256
PARK_AGAIN_S: Final = 1.0
CANCEL_S: Final = 1.0  # how long a cancelled handler may take to end

Handler = Callable[[RecordedEvent], Awaitable[object]]

_log = logs.logger("subscription")


class Beginnings(Protocol):
    """Where to begin partitions that the group has committed nothing of."""

    async def __call__(self, places: Sequence[Place]) -> dict[Place, int]:
        """Return their first offsets."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine does, and within which bounds."""

    subscription: str
    source: str
    handlers: Mapping[str, Handler]
    fallback: Handler | None
    failures: Failures
    order: Literal["stream", "partition"]
    concurrency: int
    handler_timeout_s: float | None
    revoke_timeout_s: float
    stop_timeout_s: float


@dataclass(slots=True, eq=False)
class _Partition:
    """A partition during one assignment."""

    place: Place
    window: Window
    sent: int  # what was last asked to be committed
    sent_at: float = 0.0
    is_closed: bool = False
    is_paused: bool = False
    seen: int = 0  # the committable offset at the last tick


class _Item(NamedTuple):
    event: RecordedEvent | None  # None: it is fetched from the parked topic when its turn comes
    offset: int
    partition: _Partition
    entry: Entry | None = None  # of a replay


@dataclass(slots=True, eq=False)
class _Worker:
    task: "asyncio.Task[None] | None" = None
    key: object = None
    item: _Item | None = None
    since: float = 0.0
    slice_ends: float = 0.0
    cancelled_for: Literal["timeout", "revoked"] | None = None


@dataclass(slots=True)
class Counts:
    """What has happened since the engine began."""

    handled: int = 0
    failed: int = 0
    parked: int = 0
    skipped: int = 0
    replayed: int = 0
    progressed_at: float = field(default_factory=time.monotonic)


class Engine:
    """Handles what a membership reads. ``run`` ends when it is told to stop, or when something is wrong."""

    def __init__(self, plan: Plan, codec: Codec, parker: Parker, beginnings: Beginnings) -> None:
        """Nothing runs yet."""
        self.counts = Counts()
        self._plan = plan
        self._codec = codec
        self._parker = parker
        self._beginnings = beginnings
        self._lanes: Lanes[object, _Item] = Lanes()
        self._partitions: dict[Place, _Partition] = {}
        self._attempts: dict[object, int] = {}
        self._timers: dict[object, tuple[asyncio.TimerHandle, _Partition]] = {}
        self._workers: set[_Worker] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._taken: dict[object, _Worker] = {}
        self._replaying: set[str] = set()
        self._settling: list[asyncio.Future[None]] = []  # who waits for a handler to end
        self._done_events = self._done_bytes = 0
        self._is_stopping = False
        self._failure: BaseException | None = None
        self._member: Membership | None = None
        self._ends = asyncio.Event()

    # --- the loop -------------------------------------------------------------------------------------

    def bind(self, member: Membership) -> None:
        """Own ``member``; called before it is told anything."""
        self._member = member

    async def run(self, member: Membership, stop: asyncio.Event) -> None:
        """Handle events until ``stop`` is set, a handler asks for the end, or something fails; then finish what runs.

        Raises:
            Exception: of a handler, when the failures say so; of the membership.
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

    async def _feed(self, member: Membership) -> None:
        while True:
            for batch in await member.next():
                self._accept(batch)
            self._wake()

    def _accept(self, batch: Batch) -> None:
        partition = self._partitions[batch.place]
        partition.window.take(batch.offsets, batch.next_offset)
        put, by_stream, place = self._lanes.put, self._plan.order == "stream", batch.place
        for event, offset in zip(batch.events, batch.offsets, strict=True):
            put(event.stream if by_stream else place, _Item(event, offset, partition))

    async def _tick(self, member: Membership) -> None:
        """Commit, watch over what does not move, and follow the parked topic."""
        while True:
            await asyncio.sleep(TICK_S)
            self._release()
            self.commit(member)
            self._watch(member)
            try:
                await self._parker.refresh()
            except KafkaUnavailableError as error:
                _log.warning("parked.unavailable", subscription=self._plan.subscription, error=str(error))
            self._schedule_replays()

    def commit(self, member: Membership) -> None:
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

    def _watch(self, member: Membership) -> None:
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
            latest = time.monotonic() - self._plan.handler_timeout_s
            self._cancel((w for w in self._workers if w.item is not None and w.since < latest), "timeout")

    async def _finish(self) -> None:
        """Let the handlers that run come to their end, within the deadline."""
        self._is_stopping = True
        for timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for future in self._idle:
            if not future.done():
                future.set_result(None)
        tasks = [worker.task for worker in self._workers if worker.task is not None]
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=self._plan.stop_timeout_s)
            for task in late:
                task.cancel()
            if late:
                _log.error("subscription.stop_timeout", handlers=len(late), timeout_s=self._plan.stop_timeout_s)
                await asyncio.wait(late, timeout=CANCEL_S)
        self._release()

    # --- workers --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        wanted = self._lanes.ready
        while wanted > 0 and self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                wanted -= 1
        while wanted > 0 and len(self._workers) < self._plan.concurrency and not self._is_stopping:
            worker = _Worker()
            self._workers.add(worker)
            worker.task = asyncio.create_task(self._work(worker), name=f"{self._plan.subscription} handler")
            wanted -= 1

    async def _work(self, worker: _Worker) -> None:
        assert worker.task is not None
        worker.slice_ends = time.monotonic() + SLICE_S
        try:
            while not self._is_stopping:
                try:
                    await self._step(worker)
                except asyncio.CancelledError:
                    if worker.cancelled_for is None:
                        raise
                    worker.task.uncancel()
                    worker.cancelled_for = None
                    if worker.item is not None:
                        self._abandon(worker.key, worker.item)
                finally:
                    if worker.item is not None:
                        self._taken.pop(worker.key, None)
                        worker.item = None
                        if self._settling:
                            self._settled()
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
        except BaseException as error:  # noqa: BLE001 - it is raised by run()
            self._fail(error)
        finally:
            self._workers.discard(worker)

    async def _step(self, worker: _Worker) -> None:
        """Handle the next event, or wait until there is one."""
        found = self._lanes.take()
        if found is None:
            self._release()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future
            worker.slice_ends = time.monotonic() + SLICE_S
            return
        worker.since = time.monotonic()
        worker.key, worker.item = found
        self._taken[worker.key] = worker
        await self._handle(worker, worker.key, worker.item)
        if worker.since > worker.slice_ends:
            self._taken.pop(worker.key, None)
            worker.item = None
            await asyncio.sleep(0)
            worker.slice_ends = time.monotonic() + SLICE_S

    def _fail(self, error: BaseException | None) -> None:
        self._failure = self._failure or error
        self._is_stopping = True
        self._ends.set()

    async def _handle(self, worker: _Worker, key: object, item: _Item) -> None:
        event = item.event
        if event is None:
            event = await self._fetch_replay(item)
            if event is None:
                self._close(key, item)
                return
        elif not self._parker.view.is_empty and await self._is_parked(key, item, event):
            return
        trace = ""
        result: object
        try:
            result = await self._call(event)
        except asyncio.CancelledError:
            assert worker.task is not None
            if worker.cancelled_for == "timeout":
                worker.task.uncancel()
                worker.cancelled_for = None
                result = HandlerTimeoutError(event.stream, event.version, self._plan.handler_timeout_s or 0)
            elif worker.task.cancelling():
                raise
            else:
                result = RuntimeError("the handler was cancelled from inside")
        except Outcome as wish:
            result = wish
            trace = traceback.format_exc()
        except Exception as error:  # noqa: BLE001 - what is done about it is the point
            result = error
            trace = traceback.format_exc()
        if result is None and item.entry is None:
            self._close(key, item)
        else:
            await self._follow(key, item, event, result, trace)

    async def _call(self, event: RecordedEvent) -> object:
        """Handle what an event is read as, one after the other, until a handler does not just return."""
        for part in as_read([event]):
            handler = self._plan.handlers.get(part.type) or self._plan.fallback
            if handler is None:
                if is_unknown(part):
                    _ = part.data  # says why
                continue
            with handling(part):
                if (result := await handler(part)) is not None:
                    return result
        return None

    async def _follow(self, key: object, item: _Item, event: RecordedEvent, result: object, trace: str) -> None:
        """Do what follows when a handler returned something, or raised."""
        attempts = self._attempts.get(key, 0) + 1
        verdict = judge(result, attempts, self._plan.failures, random.random)
        where = {"subscription": self._plan.subscription, "stream": event.stream, "version": event.version}
        match verdict:
            case Done():
                await self._settle(key, item)
            case Later(delay_s):
                self.counts.failed += 1
                _log.warning(
                    "event.retry", **where, attempts=attempts, delay_s=round(delay_s, 3), reason=repr(result)
                )
                self._attempts[key] = attempts
                self._rest(key, item, delay_s)
            case Parked(reason):
                self.counts.failed += 1
                await self._park(key, item, event, reason, attempts, trace)
                _log.error("event.parked", **where, attempts=attempts, reason=reason)
            case Skipped(reason):
                self.counts.skipped += 1
                _log.warning("event.skipped", **where, attempts=attempts, reason=reason)
                await self._settle(key, item)
            case Stopped(handled, error):
                _log.warning("subscription.stopped_by_handler", **where, reason=repr(result))
                if handled:
                    await self._settle(key, item)
                self._fail(error)

    async def _settle(self, key: object, item: _Item) -> None:
        """The event is handled. That of a replay is so only when the parked topic says it."""
        if item.entry is None:
            self._close(key, item)
            return
        event_id = item.entry.event_id
        if await self._persist(lambda: self._parker.settle(event_id), item):
            self.counts.replayed += 1
            self._close(key, item)
            self._schedule_replays()
        else:
            self._abandon(key, item)

    def _close(self, key: object, item: _Item) -> None:
        """The event is done with."""
        self._lanes.finish(key)
        if self._attempts:
            self._attempts.pop(key, None)
        if item.entry is not None:
            self._replaying.discard(item.entry.event_id)
            return
        item.partition.window.finish(item.offset)
        counts = self.counts
        counts.handled += 1
        self._done_events += 1
        self._done_bytes += ENVELOPE_BYTES + len(item.event.raw if item.event is not None else b"")
        if self._done_events >= RELEASE_EVENTS:
            self._release()

    def _release(self) -> None:
        if self._done_events and self._member is not None:
            self._member.release(self._done_events, self._done_bytes)
            self._done_events = self._done_bytes = 0
            self.counts.progressed_at = time.monotonic()

    def _rest(self, key: object, item: _Item, delay_s: float) -> None:
        """Take the event again after a while; its stream waits, others do not."""
        if item.partition.is_closed or self._is_stopping:
            self._abandon(key, item)
            return

        def again() -> None:
            self._timers.pop(key, None)
            self._lanes.again(key)
            self._wake()

        self._timers[key] = (asyncio.get_running_loop().call_later(delay_s, again), item.partition)

    def _abandon(self, key: object, item: _Item) -> None:
        """Leave an event to whoever has its partition next."""
        self._lanes.finish(key)
        self._attempts.pop(key, None)
        self._forget([item])
        self._wake()

    def _forget(self, items: Iterable[_Item]) -> None:
        for item in items:
            if item.entry is not None:
                self._replaying.discard(item.entry.event_id)
            elif item.event is not None:
                self._done_events += 1
                self._done_bytes += ENVELOPE_BYTES + len(item.event.raw)
        self._release()

    # --- parked events --------------------------------------------------------------------------------

    async def _is_parked(self, key: object, item: _Item, event: RecordedEvent) -> bool:
        """Close an event that is parked already, and park one whose stream is held; say whether it was either."""
        view = self._parker.view
        if view.knows(str(event.id)):
            self._close(key, item)
            return True
        if self._plan.failures.hold_stream and view.is_held(event.stream):
            await self._park(key, item, event, "an earlier event of its stream is parked", 0, "")
            return True
        return False

    async def _park(
        self, key: object, item: _Item, event: RecordedEvent, reason: str, attempts: int, trace: str
    ) -> None:
        if item.entry is None:
            parked = ParkedEvent.of(
                event, item.partition.place, item.offset, self._plan.source, reason, attempts, trace
            )
            if not attempts and self._parker.view.is_replayed(event.stream):
                parked = parked.asked_again()  # it follows those before it
        else:
            found = await self._parker.fetch(item.entry.parked_offset)
            if found is None:  # dropped, or asked for once more, meanwhile
                self._close(key, item)
                return
            parked = found.failed_again(reason, attempts, trace)
        if await self._persist(lambda: self._parker.park(parked), item):
            self.counts.parked += 1
            self._close(key, item)
        else:
            self._abandon(key, item)

    async def _persist(self, write: Callable[[], Awaitable[None]], item: _Item) -> bool:
        """Write to the parked topic, again and again while Kafka is away; False when that is no more our business."""
        while not item.partition.is_closed:
            try:
                await write()
            except KafkaUnavailableError as error:
                _log.warning("parked.unavailable", subscription=self._plan.subscription, error=str(error))
                if self._is_stopping:
                    return False
                await asyncio.sleep(PARK_AGAIN_S)
            else:
                return True
        return False

    def _schedule_replays(self) -> None:
        view, hold = self._parker.view, self._plan.failures.hold_stream
        for stream in view.streams():
            for entry in view.due(stream, hold=hold):
                partition = self._partitions.get(entry.place)
                if partition is not None and entry.event_id not in self._replaying:
                    self._replaying.add(entry.event_id)
                    key = stream if self._plan.order == "stream" else entry.place
                    self._lanes.put(key, _Item(None, 0, partition, entry))
        self._wake()

    async def _fetch_replay(self, item: _Item) -> RecordedEvent | None:
        """Return the event to replay, or None when it is settled or has failed again."""
        assert item.entry is not None
        if self._parker.view.get(item.entry.event_id) != item.entry:
            return None
        found = await self._parker.fetch(item.entry.parked_offset)
        if found is None:
            return None
        record = parse_record(self._plan.source, list(found.headers), found.value)
        await self._codec.warm({record.schema_id})
        return record.with_codec(self._codec)

    # --- partitions come and go -----------------------------------------------------------------------

    async def assigned(self, places: Sequence[Place]) -> Offsets:
        """See ``Owner``. What is parked is known before the first event is handled."""
        assert self._member is not None
        await self._parker.refresh()
        known = await self._member.committed(places)
        starts = known | await self._beginnings([place for place in places if place not in known])
        for place in places:
            start = starts[place]
            self._partitions[place] = _Partition(place, Window(start), start if place in known else start - 1)
        return starts

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        """See ``Owner``. What waits is dropped, what runs may finish, what does not is cancelled."""
        deadline_s = 0.0 if self._is_stopping else max(0.0, self._plan.revoke_timeout_s - 2 * CANCEL_S)
        partitions = self._shut(places)
        await self._let_finish(partitions, deadline_s)
        return {each.place: each.window.committable for each in partitions}

    async def lost(self, places: Sequence[Place]) -> None:
        """See ``Owner``. Others may handle the events already: what runs is cancelled."""
        await self._let_finish(self._shut(places), 0.0)

    def _shut(self, places: Sequence[Place]) -> list[_Partition]:
        partitions = [each for place in places if (each := self._partitions.pop(place, None)) is not None]
        gone = set(map(id, partitions))
        for partition in partitions:
            partition.is_closed = True
        dropped = self._lanes.drop(lambda item: id(item.partition) in gone, self._taken.__contains__)
        for key in [key for key, (_, partition) in self._timers.items() if partition.is_closed]:
            self._timers.pop(key)[0].cancel()
            self._attempts.pop(key, None)
        self._forget(dropped)
        return partitions

    async def _let_finish(self, partitions: Sequence[_Partition], timeout_s: float) -> None:
        def running() -> list[_Worker]:
            return [w for w in self._workers if w.item is not None and w.item.partition in partitions]

        for wait_s in (timeout_s, CANCEL_S):
            deadline = time.monotonic() + wait_s
            while running() and (left := deadline - time.monotonic()) > 0:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._settling.append(future)
                await asyncio.wait([future], timeout=left)
            self._cancel(running(), "revoked")

    def _settled(self) -> None:
        waiting, self._settling = self._settling, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _cancel(self, workers: Iterable[_Worker], reason: Literal["timeout", "revoked"]) -> None:
        for worker in list(workers):
            if worker.task is not None and worker.cancelled_for is None:
                worker.cancelled_for = reason
                worker.task.cancel()

    # --- what status shows ----------------------------------------------------------------------------

    def facts(self) -> dict[str, object]:
        """Return how it is doing, for the heartbeat."""
        now = time.monotonic()
        busy = [worker.since for worker in self._workers if worker.item is not None]
        return {
            "partitions": len(self._partitions),
            "waiting": self._lanes.count,
            "running": len(busy),
            "longest_s": round(now - min(busy), 1) if busy else 0.0,
            "retrying": len(self._attempts),
            "handled": self.counts.handled,
            "failed": self.counts.failed,
            "skipped": self.counts.skipped,
            "parked": len(self._parker.view),
            "paused": sum(partition.is_paused for partition in self._partitions.values()),
        }


def is_retryable(error: BaseException) -> bool:
    """Say whether the subscription may simply begin anew after ``error``."""
    return isinstance(error, GatelogError) and error.retryable
