"""The polling thread of a membership.

The client lets one thread at a time call a consumer, and a poll holds it: whatever the event loop wants of it is put
into a queue that this thread works off between polls.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from gatelog.core import kafka, logs
from gatelog.core.domain import topic_pattern
from gatelog.core.errors import GatelogError, KafkaUnavailableError
from gatelog.core.settings import Settings
from gatelog.core.telling import told
from gatelog.reader.subscriptions.client import STALE, TOPIC_REFRESH_MS, check_error, hasten, new_consumer
from gatelog.reader.subscriptions.marks import Marks, kafka_marks, kafka_starts
from gatelog.reader.subscriptions.parsing import size_of
from gatelog.reader.subscriptions.places import Batch, Joining, Offsets, Owner, Place, kafka_offsets, places_of

POLL_S: Final = 0.1  # how long the event loop's wishes may wait when nothing arrives
ASSIGN_TIMEOUT_S: Final = 60.0
ASK_S: Final = 0.01
FULL_S: Final = 0.5  # a pause throws away what was prefetched: a short spell is waited out without one
POLL_RECORDS_MAX: Final = 1_000  # few polls: after each, the interpreter's lock must be had again
RUN_RECORDS: Final = 100  # that are parsed at once: more leave the caches of a CPU before they are handled
TOPIC_REFRESH_S: Final = 5.0  # of a whole store, under the consumer protocol: by asking for all topics
CLOSE_TIMEOUT_S: Final = 15.0
_Answer = TypeVar("_Answer")


class Polled(NamedTuple):
    """Records as they were polled, and what was assigned then. ``size_bytes``: as events, roughly."""

    messages: list[Message]
    assigned: dict[Place, int]
    size_bytes: int


Arrival: TypeAlias = Polled | list[Batch] | BaseException | None  # None: the thread has ended
_assignments: Final = count(1)  # over all pollers: batches of an earlier one may be on their way
_log = logs.logger("subscription")


class Poller:
    """Polls one consumer in a thread of its own, and delivers what arrives. It is parsed in the event loop."""

    def __init__(
        self,
        settings: Settings,
        joining: Joining,
        protocol: str,
        owner: Owner,
        deliver: Callable[[list[Arrival]], None],
    ) -> None:
        """Make the consumer; ``start`` joins. Called in the event loop, whose owner is asked there."""
        self.protocol = protocol
        self.assigned: dict[Place, int] = {}  # with the number of the assignment
        self.acknowledged: dict[Place, int] = {}  # what was committed of them
        self.failure: BaseException | None = None
        self.polled_at = time.monotonic()
        self._settings = settings
        self._properties = settings.kafka_properties
        self._joining = joining
        self._owner = owner
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        self._room = threading.Event()
        self._wishes: deque[Callable[[], None]] = deque()
        self.topics: dict[str, str] = {}  # the ids of those that the client has met
        self.has_ended = self._has_joined = False
        self._paused: set[Place] = set()  # by the owner
        self._is_full = False  # everything is paused, until there is room
        self._delivered_events = self._delivered_bytes = 0  # written here
        self._released_events = self._released_bytes = 0  # written in the event loop
        self._told_events = self._told_bytes = 0  # written in the event loop
        self._topics: list[str] = []
        self._topics_at = 0.0
        self.consumer = new_consumer(settings, joining, protocol, self._committed)
        self._thread = threading.Thread(target=self._run, name=f"gatelog {joining.group}", daemon=True)

    # --- called in the event loop ----------------------------------------------------------------------

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    async def close(self) -> None:
        """Ask the owner to finish, commit, and leave; returns after at most the deadline of it all."""
        self._closing.set()
        self._room.set()
        deadline_s = self._joining.revoke_timeout_s + CLOSE_TIMEOUT_S
        await asyncio.to_thread(self._thread.join, deadline_s)
        if self._thread.is_alive():
            _log.error("subscription.leave_timeout", group=self._joining.group, timeout_s=deadline_s)

    def take_over(self, earlier: "Poller") -> None:
        """Count what an earlier poller has delivered: it will be released here."""
        self._told_events += earlier.in_hand
        self._told_bytes += earlier.in_hand_bytes

    def tell(self, batches: list[Batch]) -> None:
        """Deliver what comes from elsewhere, within the same bounds."""
        self._told_events += sum(len(batch.events) for batch in batches)
        self._told_bytes += sum(batch.size_bytes for batch in batches)
        self._deliver([batches])

    def release(self, events: int, size_bytes: int) -> None:
        """Make room."""
        self._released_events += events
        self._released_bytes += size_bytes
        if not self._room.is_set():
            self._room.set()

    async def call(self, wish: Callable[[Consumer], _Answer]) -> _Answer:
        """Have the thread call the consumer, between two polls, and return the answer.

        Raises:
            Exception: what the call raised; RuntimeError when the membership has ended.
        """
        future: Future[_Answer] = Future()

        def carry_out() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(wish(self.consumer))
                except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
                    future.set_exception(error)

        if self.has_ended:
            raise RuntimeError("the membership has ended")
        self._wishes.append(carry_out)
        self._room.set()
        return await asyncio.wrap_future(future)

    def post(self, wish: Callable[[], None]) -> None:
        """Have the thread call something between two polls, without waiting."""
        self._wishes.append(wish)

    @property
    def in_hand(self) -> int:
        """Events that were delivered and not released."""
        return self._delivered_events + self._told_events - self._released_events

    @property
    def in_hand_bytes(self) -> int:
        """What they hold, roughly."""
        return self._delivered_bytes + self._told_bytes - self._released_bytes

    # --- the thread -----------------------------------------------------------------------------------

    def pause(self, places: Iterable[Place]) -> None:
        """Pause partitions for the owner."""
        new = set(places) & self.assigned.keys() - self._paused
        self._paused |= new
        if new:
            self.consumer.pause([TopicPartition(*place) for place in new])

    def resume(self, places: Iterable[Place]) -> None:
        """Resume partitions for the owner."""
        back = set(places) & self._paused
        self._paused -= back
        if (back := back & self.assigned.keys()) and not self._is_full:
            self.consumer.resume([TopicPartition(*place) for place in back])

    def seek(self, offsets: Offsets) -> None:
        """Go on reading elsewhere."""
        for each in kafka_offsets({place: offset for place, offset in offsets.items() if place in self.assigned}):
            self.consumer.seek(each)

    def begin_paused(self, places: Iterable[Place]) -> None:
        """Read nothing of partitions until ``resume``. Called by the owner while it is asked where they begin."""
        self._paused |= set(places)

    def commit(self, marks: Marks) -> None:
        """Commit what is ours still; the answer comes to ``_committed``."""
        try:
            if ours := {place: mark for place, mark in marks.items() if place in self.assigned}:
                self.consumer.commit(offsets=kafka_marks(ours), asynchronous=True)
        except KafkaException as error:
            _log.warning("subscription.commit_failed", group=self._joining.group, error=told(error))

    def _commit_now(self, marks: Marks) -> None:
        """Commit and wait for the answer.

        Raises:
            KafkaException: refused.
            KafkaUnavailableError: no answer.
        """
        with kafka.translated(self._properties):
            answers = self.consumer.commit(offsets=kafka_marks(marks), asynchronous=False)
        for each in answers or ():
            if each.error is not None:
                raise KafkaException(each.error)

    def _run(self) -> None:
        try:
            if self.protocol == "consumer":
                hasten(self._settings, self._joining.group)
            self._subscribe()
            while not self._closing.is_set():
                self._step()
        except BaseException as error:  # noqa: BLE001 - it is raised in the event loop, by whoever waits for batches
            self.failure = error
        try:
            self._leave()
        except BaseException as error:  # noqa: BLE001 - as above
            self.failure = self.failure or error
        self.has_ended = True
        with suppress(RuntimeError):  # the consumer is closed; nobody waits for an answer for ever
            self._obey()
        if not self._loop.is_closed():
            self._deliver([None])

    def _subscribe(self) -> None:
        store = self._settings.store
        callbacks: dict[str, Any] = {
            "on_assign": self._on_assign,
            "on_revoke": self._on_revoke,
            "on_lost": self._on_lost,
        }
        names = self._joining.topics(store)
        self._topics_at = time.monotonic()
        if names is None and self.protocol == "consumer":
            # Brokers look for new topics of a pattern every ten seconds or less often: names are found sooner.
            names = self._topics = self._topics_of_store()
        elif names is None:
            names = [topic_pattern(store)]
        elif self.protocol == "classic":  # as patterns, so that a category without events yet is no error
            names = [f"^{name}$".replace(".", r"\.") for name in names]
        if names:
            self.consumer.subscribe(names, **callbacks)

    def _topics_of_store(self) -> list[str]:
        return sorted(kafka.topics_of(self.consumer, self._properties, self._settings.store))

    def _refresh_topics(self) -> None:
        if self.protocol == "classic" or self._joining.categories is not None:
            return
        wait_s = TOPIC_REFRESH_S if self._topics else TOPIC_REFRESH_MS / 1000
        if time.monotonic() - self._topics_at > wait_s and self._topics_of_store() != self._topics:
            self._subscribe()

    def _step(self) -> None:
        self.polled_at = time.monotonic()
        self._obey()
        self._refresh_topics()
        room = self._room_for() if self._is_full else self._wait_for_room()
        self._pause_when_full(room)
        messages = self._poll(max(1, min(room, POLL_RECORDS_MAX)))
        if messages:
            runs = [messages[begin : begin + RUN_RECORDS] for begin in range(0, len(messages), RUN_RECORDS)]
            polled = [Polled(run, self.assigned, sum(map(size_of, run))) for run in runs]
            self._delivered_events += len(messages)
            self._delivered_bytes += sum(each.size_bytes for each in polled)
            self._deliver([*polled])

    def _wait_for_room(self) -> int:
        """Return how many events more may be in hand; none, when that has not changed for a while."""
        deadline = time.monotonic() + FULL_S
        while (room := self._room_for()) == 0 and (left := deadline - time.monotonic()) > 0:
            self._room.wait(left)
            self._obey()
        return room

    def _room_for(self) -> int:
        """Return how many events more may be in hand."""
        self._room.clear()
        if self.in_hand_bytes >= self._joining.bytes_max:
            return 0
        return max(0, self._joining.events_max - self.in_hand)

    def _pause_when_full(self, room: int) -> None:
        if self._is_full and room >= self._joining.events_max // 2:
            self._is_full = False
            if back := self.assigned.keys() - self._paused:
                self.consumer.resume([TopicPartition(*place) for place in back])
        elif room == 0 and not self._is_full:
            self._is_full = True
            if self.assigned:
                self.consumer.pause([TopicPartition(*place) for place in self.assigned])

    def _poll(self, events_max: int) -> list[Message]:
        """Take what is there, or wait for the next (``consume`` would wait for a full batch).

        Each call lets go of the interpreter's lock, and on a busy machine it takes a while to come back: far behind,
        there is one a batch.
        """
        found = self.consumer.consume(events_max, timeout=0)
        if not found and (first := self.consumer.poll(0.05 if self._is_full else POLL_S)) is not None:
            found = [first]
        return [message for message in found if self._is_record(message)]

    def _is_record(self, message: Message) -> bool:
        if message.error() is None:
            return True
        is_new = self.protocol == "consumer" and not self._has_joined
        check_error(message, self._properties, self._joining.group, may_lack_protocol=is_new)
        return False

    def _leave(self) -> None:
        self._obey()
        if self.assigned:
            self._give_up(list(self.assigned))
        self.consumer.close()

    # --- partitions come and go -----------------------------------------------------------------------

    def _ask(self, question: Coroutine[Any, Any, _Answer], timeout_s: float = inf) -> _Answer:
        """Ask the owner, in the event loop; where others are waiting meanwhile, there is a deadline.

        A process that was frozen has not given the owner its time: each wait counts as what it was to be.

        Raises:
            TimeoutError: no answer in time; Exception: the owner's.
        """
        future = asyncio.run_coroutine_threadsafe(question, self._loop)
        while not wait([future], ASK_S).done:
            self._obey()  # the owner may wait for a wish of its own
            if (timeout_s := timeout_s - ASK_S) < 0:
                future.cancel()
                raise TimeoutError
        return future.result()

    def _obey(self) -> None:
        while self._wishes:
            self._wishes.popleft()()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._has_joined = True
        places = places_of(partitions)
        try:
            starts = self._ask(self._owner.assigned(places), ASSIGN_TIMEOUT_S) if places else {}
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"Where to begin {len(places)} partitions was not found out within {ASSIGN_TIMEOUT_S:g} s."
            ) from error
        self.topics = {topic: mark.topic for (topic, _), mark in starts.items() if mark.topic} | self.topics
        self.assigned = self.assigned | dict.fromkeys(places, next(_assignments))
        consumer.incremental_assign(kafka_starts(starts))
        held = partitions if self._is_full else [TopicPartition(*place) for place in places if place in self._paused]
        if held:
            consumer.pause(held)
        _log.info("subscription.assigned", group=self._joining.group, partitions=len(places))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if not self._closing.is_set():
            self._give_up(places_of(partitions))
        consumer.incremental_unassign(partitions)

    def _give_up(self, places: list[Place]) -> None:
        try:
            marks = self._ask(self._owner.revoked(places), self._joining.revoke_timeout_s)
        except TimeoutError:
            _log.error("subscription.revoke_timeout", group=self._joining.group, partitions=len(places))
            marks = {}
        self._forget(places)
        if marks:
            try:
                self._commit_now(marks)
            except (KafkaException, GatelogError) as error:
                _log.warning("subscription.commit_refused", group=self._joining.group, error=told(error))
        _log.info("subscription.revoked", group=self._joining.group, partitions=len(places))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = places_of(partitions)
        self._forget(places)
        _log.warning("subscription.lost", group=self._joining.group, partitions=len(places))
        self._ask(self._owner.lost(places))  # nobody waits for us: others may have them already
        consumer.incremental_unassign(partitions)

    def _forget(self, places: Iterable[Place]) -> None:
        gone = set(places)
        self.assigned = {place: number for place, number in self.assigned.items() if place not in gone}
        self._paused -= gone
        for place in gone:
            self.acknowledged.pop(place, None)

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            if error is None and each.error is None:
                self.acknowledged[each.topic, each.partition] = each.offset
        failed = error or next((each.error for each in partitions if each.error is not None), None)
        if failed is not None and failed.code() != KafkaError._NO_OFFSET:
            refused = failed.code() in STALE
            _log.warning(
                "subscription.commit_refused" if refused else "subscription.commit_failed",
                group=self._joining.group,
                error=failed.name(),
            )
