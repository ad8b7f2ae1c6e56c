"""What becomes of one event: its handler is called, and then it is done, tried again, parked, or passed over."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from gatelog.core import logs, services
from gatelog.core.consumer_errors import HandlerTimeoutError
from gatelog.core.errors import GatelogError, KafkaUnavailableError
from gatelog.core.telling import told, traced
from gatelog.reader.subscriptions.events import KafkaEvent, event_of
from gatelog.reader.subscriptions.failures import Done, Later, Parked, Skipped, Stopped, judge, reason_of
from gatelog.reader.subscriptions.group_reading import GroupReading
from gatelog.reader.subscriptions.lanes import Lanes
from gatelog.reader.subscriptions.parked import Entry, ParkedEvent
from gatelog.reader.subscriptions.parker import Parker
from gatelog.reader.subscriptions.work import Counts, Handler, Item, Key, Partition, Plan
from gatelog.reader.subscriptions.workers import Worker
from gatelog.schemas.causation import handling
from gatelog.schemas.codec import Codec
from gatelog.schemas.parts import as_read, is_unknown

RELEASE_EVENTS: Final = 256
PARK_AGAIN_S: Final = 1.0

_log = logs.logger("subscription")


class Fates:
    """Handles events that were taken from the lanes, and keeps what concerns single ones."""

    def __init__(
        self,
        plan: Plan,
        codec: Codec,
        parker: Parker,
        wake: Callable[[], None],
        stopped: Callable[[BaseException | None], None],
        replay_next: Callable[[], None],
    ) -> None:
        """Begin with nothing in hand."""
        self.counts = Counts()
        self.lanes: Lanes[Key, Item] = Lanes()
        self.attempts: dict[Key, int] = {}
        self.timers: dict[Key, tuple[asyncio.TimerHandle, Partition]] = {}
        self.replaying: set[str] = set()
        self.between: set[Worker] = set()  # busy, but not with a handler: its time does not count
        self.member: GroupReading | None = None
        self.is_stopping = False
        self.wake = wake
        self.stopped = stopped
        self.replay_next = replay_next
        self._plan = plan
        self._codec = codec
        self._parker = parker
        self._done_events = self._done_bytes = 0

    async def handle(self, worker: Worker, key: Key, item: Item) -> None:
        """Call the handler of an event that was taken, and do what follows."""
        event = item.event
        if event is None or not self._parker.view.is_empty:
            with self._beside_handlers(worker):
                event = await self._wanted(key, item)
            if event is None:
                return
        result, trace = await self._call(worker, event)
        if result is None and item.entry is None:
            self._close(key, item)
        else:
            with self._beside_handlers(worker):
                await self._follow(key, item, event, result, trace)

    @contextmanager
    def _beside_handlers(self, worker: Worker) -> Iterator[None]:
        """What takes time here is not a handler's and must not be cancelled for it: nobody would go on from there."""
        self.between.add(worker)
        try:
            yield
        finally:
            self.between.discard(worker)
            worker.since = time.monotonic()

    async def _wanted(self, key: Key, item: Item) -> KafkaEvent | None:
        """Return the event to handle now, or None when there is nothing more to do about it."""
        event = item.event
        if event is None:
            assert item.entry is not None
            return await self._replayed(key, item, item.entry)
        if await self._is_parked(key, item, event):
            return None
        return event

    async def _call(self, worker: Worker, event: KafkaEvent) -> tuple[object, str]:
        """Return what the handler returned, or what it raised and its trace."""
        trace = ""
        result: object = None
        try:
            if event.schema_id in self._codec.reshapes:
                result = await self._call_for_parts(event)
            elif (handler := self._handler_of(event.type)) is not None:
                with services.at_work, handling(event):
                    result = await handler(event)
        except asyncio.CancelledError:
            if worker.is_given_up or (worker.cancelled_for is None and self.is_stopping):
                raise
            if worker.cancelled_for is None:
                result = RuntimeError("the handler was cancelled from inside")
        except Exception as error:  # noqa: BLE001 - what is done about it is the point
            result, trace = error, traced(error)
        assert worker.task is not None
        if worker.task.cancelling():
            with self._beside_handlers(worker):
                result = await self._after_cancelling(worker, event, result)
        return result, trace

    async def _after_cancelling(self, worker: Worker, event: KafkaEvent, result: object) -> object:
        """Return what became of an event whose handler was cancelled, by us or by itself, and ended in its own way.

        The task goes on with other events, and nothing of this must cling to it. An event that was to be given up is
        not handled, whatever its handler made of that: it had no time left.
        """
        assert worker.task is not None
        if worker.is_given_up:
            raise asyncio.CancelledError
        if worker.cancelled_for == "timeout":
            result = HandlerTimeoutError(event.stream, event.version, self._plan.handler_timeout_s or 0)
        worker.cancelled_for = None
        while worker.task.uncancel():
            pass
        try:
            await asyncio.sleep(0)  # where a cancellation comes out that the handler did not wait for
        except asyncio.CancelledError:
            if worker.cancelled_for is not None or self.is_stopping:
                raise
        return result

    def _handler_of(self, event_type: str) -> Handler | None:
        return self._plan.handlers.get(event_type) or self._plan.fallback

    async def _call_for_parts(self, event: KafkaEvent) -> object:
        """Call the handlers of what an upcaster makes of a stored event, up to the first that wants something."""
        for part in as_read([event]):
            handler = self._handler_of(part.type)
            if handler is None:
                if is_unknown(part):
                    _ = part.data  # says why
                continue
            with services.at_work, handling(part):
                if (result := await handler(part)) is not None:
                    return result
        return None

    async def _follow(self, key: Key, item: Item, event: KafkaEvent, result: object, trace: str) -> None:
        """Do what follows when a handler returned something, or raised."""
        attempts = self.attempts.get(key, 0) + 1
        verdict = judge(result, attempts, self._plan.failures, random.random)
        where = {"subscription": self._plan.subscription, "stream": event.stream, "version": event.version}
        match verdict:
            case Done():
                await self._settle(key, item)
            case Later(delay_s, reason):
                self.counts.failed += 1
                shown = trace if attempts == 1 else ""  # it is most often the same again
                _log.warning(
                    "event.retry", **where, attempts=attempts, delay_s=round(delay_s, 3), reason=reason, trace=shown
                )
                self.attempts[key] = attempts
                self._rest(key, item, delay_s)
            case Parked(reason):
                self.counts.failed += 1
                await self._park(key, item, event, reason, attempts, trace)
                _log.error("event.parked", **where, attempts=attempts, reason=reason, trace=trace)
            case Skipped(reason):
                self.counts.skipped += 1
                _log.warning("event.skipped", **where, attempts=attempts, reason=reason, trace=trace)
                await self._settle(key, item)
            case Stopped(handled, error, reason):
                _log.warning("subscription.stopped_by_handler", **where, reason=reason, trace=trace)
                if handled:
                    await self._settle(key, item)
                self.stopped(error)

    async def _settle(self, key: Key, item: Item) -> None:
        """The event is handled. That of a replay is so only when the parked topic says it."""
        if item.entry is None:
            self._close(key, item)
            return
        event_id = item.entry.event_id
        if await self._persist(lambda: self._parker.settle(event_id), item):
            self.counts.replayed += 1
            self._close(key, item)
            self.replay_next()
        else:
            self.abandon(key, item)

    def _close(self, key: Key, item: Item) -> None:
        """The event is done with."""
        self.lanes.finish(key)
        if self.attempts:
            self.attempts.pop(key, None)
        if item.entry is not None:
            self.replaying.discard(item.entry.event_id)
            return
        item.partition.window.finish(item.offset)
        counts = self.counts
        counts.handled += 1
        self._done_events += 1
        self._done_bytes += item.event.size_bytes if item.event is not None else 0
        if self._done_events >= RELEASE_EVENTS:
            self.release()

    def release(self) -> None:
        if self._done_events and self.member is not None:
            self.member.release(self._done_events, self._done_bytes)
            self._done_events = self._done_bytes = 0
            self.counts.progressed_at = time.monotonic()

    def _rest(self, key: Key, item: Item, delay_s: float) -> None:
        """Take the event again after a while; its stream waits, others do not."""
        if item.partition.is_closed:
            self.abandon(key, item)
            return

        def again() -> None:
            self.timers.pop(key, None)
            self.lanes.again(key)
            self.wake()

        self.timers[key] = (asyncio.get_running_loop().call_later(delay_s, again), item.partition)

    def abandon(self, key: Key, item: Item) -> None:
        """Leave an event, and what follows it in its stream, to whoever has its partition next."""
        self.attempts.pop(key, None)
        if item.partition.is_gone:
            self.lanes.finish(key)
            self.forget([item])
            self.wake()
        # Otherwise it stays where it is, and nothing behind it is ready, until the partition is gone.

    def forget(self, items: Iterable[Item]) -> None:
        for item in items:
            if item.entry is not None:
                self.replaying.discard(item.entry.event_id)
            elif item.event is not None:
                self._done_events += 1
                self._done_bytes += item.event.size_bytes
        self.release()

    # --- parked events --------------------------------------------------------------------------------

    async def _is_parked(self, key: Key, item: Item, event: KafkaEvent) -> bool:
        """Close an event that is parked already, and park one whose stream is held; say whether it was either."""
        view = self._parker.view
        if view.knows(event.id_text, item.partition.settled):
            self._close(key, item)
            return True
        if self._plan.failures.hold_stream and view.is_held(event.stream, event.version):
            await self._park(key, item, event, "an earlier event of its stream is parked", 0, "")
            return True
        return False

    async def _park(self, key: Key, item: Item, event: KafkaEvent, reason: str, attempts: int, trace: str) -> None:
        if item.entry is not None:
            await self._park_again(key, item, item.entry, reason, attempts, trace)
            return
        await self._write(
            key, item, ParkedEvent.of(event, item.partition.place, item.offset, reason, attempts, trace)
        )

    async def _park_again(self, key: Key, item: Item, entry: Entry, reason: str, attempts: int, trace: str) -> None:
        """Park what was to be replayed."""
        found = await self._parker.fetch(entry.parked_offset)
        if found is None:  # dropped, or asked for once more, meanwhile
            self._close(key, item)
        else:
            await self._write(key, item, found.failed_again(reason, attempts, trace))

    async def _write(self, key: Key, item: Item, parked: ParkedEvent) -> None:
        if await self._persist(lambda: self._parker.park(parked), item):
            self.counts.parked += 1
            self._close(key, item)
        else:
            self.abandon(key, item)

    async def _persist(self, write: Callable[[], Awaitable[None]], item: Item) -> bool:
        """Write to the parked topic, again and again while Kafka is away; False when that is no more our business."""
        while not item.partition.is_closed:
            try:
                await write()
            except KafkaUnavailableError as error:
                _log.warning("parked.unavailable", subscription=self._plan.subscription, error=told(error))
                if self.is_stopping:
                    return False
                await asyncio.sleep(PARK_AGAIN_S)
            else:
                return True
        return False

    async def _replayed(self, key: Key, item: Item, entry: Entry) -> KafkaEvent | None:
        """Return the event to replay, or None when it is settled, or has failed again."""
        try:
            event = await self._fetch_replay(entry)
        except GatelogError as error:
            reason, attempts = reason_of(error), self.attempts.get(key, 0) + 1
            where = {"subscription": self._plan.subscription, "stream": entry.stream, "version": entry.version}
            _log.warning("event.not_replayed", **where, reason=reason)
            if error.retryable:
                self._rest(key, item, PARK_AGAIN_S)
            else:
                await self._park_again(key, item, entry, reason, attempts, traced(error))
            return None
        if event is None:
            self._close(key, item)
        return event

    async def _fetch_replay(self, entry: Entry) -> KafkaEvent | None:
        view, hold = self._parker.view, self._plan.failures.hold_stream
        if view.get(entry.event_id) != entry or not view.is_due(entry, hold=hold):
            return None
        found = await self._parker.fetch(entry.parked_offset)
        if found is None:
            return None
        found = await self._parker.whole(found)
        event = event_of(self._plan.source, dict(found.headers), found.value, self._codec)
        await self._codec.warm({event.schema_id})
        return event
