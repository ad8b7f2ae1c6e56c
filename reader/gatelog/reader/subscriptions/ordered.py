"""Total order over everything, or some categories: one consumer of all partitions behind a merge by position.

Idle partitions are waited for no longer than needed. Of a whole store, positions are gapless, and the next one is
known when it is here. Of some categories, a position that is missing may be of another category, or late. To tell,
the ends of the silent partitions are asked *after* a higher position was seen: ticks are published one after the
other, so that everything below it had been written by then. When the consumer has come to these ends, nothing below
will come any more. The ends are those behind uncommitted records: the markers of a tick reach its partitions one by
one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from operator import itemgetter
from typing import Any, Final, TypeAlias

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from gatelog.core import asking, histories, kafka, logs
from gatelog.core.asking import End
from gatelog.core.errors import HistoryGoneError, KafkaUnavailableError, LogMismatchError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.core.telling import told
from gatelog.reader.subscriptions.checkpoints import Batch, Checkpoint, Move, checkpoint_of
from gatelog.reader.subscriptions.history import History
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET
from gatelog.reader.subscriptions.merge import Merge, Place
from gatelog.reader.subscriptions.refinding import located, missing_before
from gatelog.reader.subscriptions.topics import Topics
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import (
    SCHEMA_ID,
    ForeignRecordError,
    Headers,
    NamesakeRecordError,
    Record,
    RecordedEvent,
    chained,
    parse_record,
)

BATCH_EVENTS_MAX: Final = 5_000
POLL_S: Final = 0.1
ASKED_POLL_S: Final = 0.005  # while an answer is on its way, or a partition on its way to its end
POLL_RECORDS_MAX: Final = 1_000  # their headers are many objects: the garbage collector looks at all that are alive
HELD_EVENTS_MAX: Final = 200_000  # over all partitions, before those that are ahead are paused
HELD_BYTES_MAX: Final = 64 * 1024 * 1024
TOPICS_INTERVAL_S: Final = 1.0
LOOKS_EACH_IDENTITY: Final = 5  # of these, one asks which topics they are
STALLED_S: Final = 1.0  # without the next of gapless positions, after which it is asked where it is
FETCH_WAIT_MS: Final = 20  # how soon the end of a partition is noticed
QUEUED_KB_MAX: Final = 32 * 1024
RAW: Final = 11  # place of the payload in a row
FETCH_BYTES_MAX: Final = 128 * 1024  # of one partition at a time: the more at once, the more is held

_place_of: Final[Callable[["_Held"], Place]] = itemgetter(1)

_log = logs.logger("ordered")

Meet = Callable[[Collection[Place]], Awaitable[Mapping[Place, Checkpoint]]]
# Position, place, offset, and the fields of a Record. Plain tuples of plain values: the garbage collector stops to
# look at them, which it would not do for a Record, and there may be a hundred thousand.
_Held: TypeAlias = tuple[int, Place, int, tuple[Any, ...]]


@dataclass(slots=True)
class _Partition:
    """One partition as the consumer sees it."""

    reached: int  # everything before this offset has come…
    position: int  # …and everything up to this position
    end: int | None = None  # when the consumer is there …
    quiet_upto: int = 0  # … nothing up to this position comes any more
    is_paused: bool = False
    epoch: int | None = None  # of the newest record


@dataclass(slots=True)
class _Silence:
    """A question under way: the ends of silent partitions, and which topics there are."""

    position: int
    answer: "asyncio.Task[tuple[dict[Place, End], dict[str, int]]]"


class TotalOrder:
    """The events of a store in order of positions, from checkpoints on. For one consumer: it reads all partitions."""

    def __init__(
        self,
        settings: Identified,
        codec: Codec,
        history: History,
        categories: Collection[str] | None,
        meet: Meet,
        read: Collection[str] = (),
    ) -> None:
        """``meet`` is called with partitions that are new, and says where to begin in each.

        ``read``: topics that were read before, and are waited for where they are gone.
        """
        self._settings = settings
        self._properties = settings.kafka_properties
        self._source = settings.source
        self._own_header = self._source.encode()
        self._namesakes = Namesakes(settings)
        self._codec = codec
        self._history = history
        self._categories = categories
        self._topics = Topics(settings, categories)
        self._meet = meet
        self._read = set(read)
        self._checkpoints: dict[Place, Checkpoint] = {}
        self._partitions: dict[Place, _Partition] = {}
        self._missing: set[str] = set()  # wanted topics that do not exist: they may yet hold a lower position
        self._merge = Merge(0, gapless=categories is None)
        self._has_caught_up = False
        self._held_bytes = self._unreadable = self._late = 0
        self._silence: _Silence | None = None
        self._lacking: dict[Place, int] = {}  # partitions that lack records before the next one, and up to where
        self._asked: set[Place] = set()  # whose end is known, and not reached yet
        self._looks, self._looked_at, self._moved_at = count(1), time.monotonic(), time.monotonic()
        own = kafka.client_properties(
            self._properties,
            group_id=settings.named("ordered"),  # librdkafka wants one; nobody joins it
            enable_auto_commit=False,
            auto_offset_reset="error",
            isolation_level="read_committed",
            enable_partition_eof=True,
            fetch_wait_max_ms=FETCH_WAIT_MS,
            queued_max_messages_kbytes=QUEUED_KB_MAX,
            fetch_message_max_bytes=FETCH_BYTES_MAX,
        )
        with kafka.legal(self._properties):
            self._consumer = Consumer(own)

    async def close(self) -> None:
        """Leave Kafka."""
        if self._silence is not None:
            await asyncio.gather(self._silence.answer, return_exceptions=True)
        await asyncio.to_thread(self._consumer.close)

    async def batches(self, stop: asyncio.Event) -> AsyncIterator[Batch]:
        """Yield what has come, until ``stop`` is set; an empty batch when nothing did.

        Raises:
            LogMismatchError: positions are missing that no unreadable record accounts for; records are gone from
                Kafka and the index; or a partition is out of order.
            ForeignStoreError: a topic is another store's of the same name.
            KafkaUnavailableError, PostgresUnavailableError: no answer.
        """
        await self._look_for_topics()
        async for batch in self._catch_up(stop):
            yield batch
        while not stop.is_set():
            now = time.monotonic()
            if now - self._looked_at > TOPICS_INTERVAL_S:
                await self._look_for_topics()
            messages = await asyncio.to_thread(self._poll)
            records = len(messages)
            await self._take(messages)
            await self._listen(records)
            due = self._merge.release()
            if due:
                self._moved_at = now
            if self._merge.late > self._late:
                _log.error("order.late", events=self._merge.late - self._late, upto=self._merge.upto)
                self._late = self._merge.late
            if self._merge.missing > self._unreadable:
                raise LogMismatchError(
                    f"{self._merge.missing} positions up to {self._merge.upto} are in no partition, and "
                    f"{self._unreadable} records cannot be read. Nothing after them was handled."
                )
            self._throttle()
            for first in range(0, len(due), BATCH_EVENTS_MAX):
                yield self._batch(due[first : first + BATCH_EVENTS_MAX])
            for place, upto in self._lacking.items():  # the index tells what to do next
                at = replace(self._checkpoints[place], next_offset=UNKNOWN_OFFSET, epoch=None)
                yield Batch([], {place: Move(at, 0)})
                state = self._partitions[place]
                raise missing_before(place, state.reached, state.position, upto)
            if not due:
                yield Batch([], {})

    # --- where to begin ---------------------------------------------------------------------------

    async def _look_for_topics(self) -> None:
        self._looked_at = time.monotonic()
        await self._know(await self._topics.partitions())
        is_due = next(self._looks) % LOOKS_EACH_IDENTITY == 0
        known = {topic: at.topic for (topic, _), at in self._checkpoints.items() if is_due and at.topic is not None}
        for topic in await asyncio.to_thread(asking.made_again, self._properties, known):
            raise HistoryGoneError(topic, 0, self._checkpoints[topic, 0].next_offset, "the topic was made again")

    async def _know(self, topics: dict[str, int]) -> None:
        places = [(topic, number) for topic, count in sorted(topics.items()) for number in range(count)]
        new = [place for place in places if place not in self._checkpoints]
        if new:
            met = dict(await self._meet(new))
            marks = await located(self._settings, self._topics, {place: at.mark for place, at in met.items()})
            self._checkpoints |= {place: checkpoint_of(mark) for place, mark in marks.items()}
        if self._has_caught_up:  # else where to begin is not known yet
            self._watch(new)
        self._read |= {topic for topic, _ in self._checkpoints}
        if gone := self._read - topics.keys():
            raise KafkaUnavailableError(
                f"Topics that were read are gone from Kafka: {', '.join(sorted(gone))}. What they hold comes before "
                "what others hold. Where they are lost, `gatelog republish` makes and fills them again."
            )
        missing = (self._topics.wanted or set()) - topics.keys()
        for topic in missing - self._missing:
            self._merge.watch((topic, -1))
        for topic in self._missing - missing:
            self._merge.unwatch((topic, -1))
        self._missing = missing

    def _watch(self, places: Collection[Place]) -> None:
        for place in places:
            at = self._checkpoints[place]
            self._merge.watch(place, at.position)
            self._partitions[place] = _Partition(max(at.next_offset, 0), at.position, epoch=at.epoch)
        if places:
            begins = [(place, self._checkpoints[place]) for place in places]
            self._consumer.incremental_assign(
                [histories.resume(place, max(at.next_offset, 0), at.epoch) for place, at in begins]
            )

    async def _catch_up(self, stop: asyncio.Event) -> AsyncIterator[Batch]:
        """Yield what Kafka does not have any more, then go over to it."""
        lows = await self._topics.beginnings(self._checkpoints.keys())
        upto = max((at.position for at in self._checkpoints.values()), default=0)
        if any(at.next_offset < lows[place] for place, at in self._checkpoints.items()):
            topics = {place[0]: at.topic for place, at in self._checkpoints.items()}
            handover = await self._history.handover(lows, topics)
            _log.info("ordered.history", since=upto, upto=handover.position)
            await self._history.complete(handover.position, stop)
            while upto < handover.position and not stop.is_set():
                events, upto = await self._history.page(upto, handover.position, self._categories, None)
                yield self._moved_all(events, upto, {})
            if stop.is_set():
                return
            yield self._moved_all([], upto, handover.offsets)
        merge = Merge(upto, gapless=self._categories is None)
        for topic in self._missing:
            merge.watch((topic, -1))
        self._merge, self._has_caught_up = merge, True
        self._watch(list(self._checkpoints))

    def _moved_all(self, events: list[RecordedEvent], upto: int, offsets: Mapping[Place, int]) -> Batch:
        """All partitions are at one position. Their numbers of events are not known apart: the first gets them."""
        moves: dict[Place, Move] = {}
        for place, at in self._checkpoints.items():
            offset = max(at.next_offset, offsets.get(place, at.next_offset))
            epoch = at.epoch if offset == at.next_offset else None
            after = Checkpoint(max(upto, at.position), offset, epoch, at.topic)
            moves[place] = Move(after, 0 if moves else len(events))
            self._checkpoints[place] = after
        return Batch(events, moves)

    # --- what comes -------------------------------------------------------------------------------

    def _poll(self) -> list[Message]:
        first = self._consumer.poll(POLL_S if self._silence is None and not self._asked else ASKED_POLL_S)
        if first is None:
            return []
        return [first, *self._consumer.consume(POLL_RECORDS_MAX - 1, timeout=0)]

    async def _take(self, messages: list[Message]) -> None:
        taken: list[_Held] = []
        place, state = ("", -1), _Partition(0, 0)
        messages.reverse()
        while messages:
            message = messages.pop()  # and let it go
            topic, partition, offset, error = message.topic(), message.partition(), message.offset(), message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                self._raise(message, error)
                continue
            assert topic is not None
            assert partition is not None
            assert offset is not None
            if place[1] != partition or place[0] != topic:
                place = (topic, partition)
                state = self._partitions[place]
            if error is not None:
                state.reached = max(state.reached, offset)
                continue
            if place in self._lacking:
                continue
            headers = dict(message.headers() or ())
            if headers.get("ce_source") == self._own_header:
                position, previous = chained(headers)
                if previous > state.position:
                    self._lacking[place] = previous
                    continue
                state.position = max(state.position, position)
            state.reached, state.epoch = offset + 1, histories.epoch_of(message)
            if (record := self._parsed(message, headers)) is not None:
                taken.append((record.position, place, offset, tuple(record)))
        await self._namesakes.judge_met()
        await self._codec.warm({held[3][SCHEMA_ID] for held in taken})
        for held in taken:
            self._merge.add(held[1], held)
        self._held_bytes += _size(taken)

    def _raise(self, message: Message, error: KafkaError) -> None:
        """Raise what is not passing."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise HistoryGoneError(message.topic() or "", message.partition() or 0, message.offset(), error.str())
        kafka.is_record(message, self._properties)

    def _parsed(self, message: Message, headers: Headers) -> Record | None:
        try:
            return parse_record(self._source, headers, message.value())
        except UndecodableRecordError as error:
            self._unreadable += not isinstance(error, ForeignRecordError)
            if isinstance(error, NamesakeRecordError):
                self._namesakes.met.add(message.topic() or "")
            _log.warning(
                "record.ignored",
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
                reason=told(error),
            )
            return None

    def _batch(self, due: Sequence[_Held]) -> Batch:
        events = [RecordedEvent(held[3], self._codec) for held in due]
        counts = Counter(map(_place_of, due))
        last = {held[1]: held for held in due}
        self._held_bytes -= _size(due)
        moves = {}
        for place, (position, _, offset, _) in last.items():
            epoch, topic = self._partitions[place].epoch, self._checkpoints[place].topic
            self._checkpoints[place] = Checkpoint(position, offset + 1, epoch, topic)
            moves[place] = Move(self._checkpoints[place], counts[place])
        return Batch(events, moves)

    # --- who is waited for --------------------------------------------------------------------------

    async def _listen(self, messages: int) -> None:
        """Find out whether silent partitions hold something lower, when nothing else tells."""
        if self._silence is not None and self._silence.answer.done():
            silence, self._silence = self._silence, None
            await self._heard(silence)
        for place in list(self._asked):
            state = self._partitions[place]
            if state.end is not None and state.reached >= state.end:
                self._merge.quiet(place, state.quiet_upto)
                state.end = None
                self._asked.discard(place)
        if self._silence is not None or messages > POLL_RECORDS_MAX // 2:
            return
        if self._categories is None and time.monotonic() - self._moved_at < STALLED_S:
            return
        awaited = [p for p in self._merge.awaited() if p not in self._asked]
        if awaited:
            self._silence = _Silence(self._merge.highest, asyncio.create_task(self._ask(awaited)))

    async def _ask(self, awaited: Collection[Place]) -> tuple[dict[Place, End], dict[str, int]]:
        topics = await self._topics.partitions()
        return await self._topics.stands([place for place in awaited if place[1] >= 0]), topics

    async def _heard(self, silence: _Silence) -> None:
        ends, topics = silence.answer.result()
        for place, end in ends.items():
            state = self._partitions[place]
            if end.topic != self._checkpoints[place].topic:
                raise HistoryGoneError(*place, state.reached, "the topic was deleted and made again")
            state.end, state.quiet_upto = end.offset, silence.position
            self._asked.add(place)
        await self._know(topics)
        for topic in self._missing:
            self._merge.quiet((topic, -1), silence.position)

    def _throttle(self) -> None:
        """Pause partitions that are ahead, so that those which are waited for have the room."""
        most = max(HELD_EVENTS_MAX // max(len(self._partitions), 1), 100)
        is_full = self._held_bytes > HELD_BYTES_MAX
        pause, resume = [], []
        for place, state in self._partitions.items():
            held = self._merge.held_of(place)
            if not state.is_paused and (held > most or (is_full and held)):
                state.is_paused = True
                pause.append(TopicPartition(*place))
            elif state.is_paused and ((held < most // 4 and not is_full) or not held):
                state.is_paused = False
                resume.append(TopicPartition(*place))
        if pause:
            self._consumer.pause(pause)
        if resume:
            self._consumer.resume(resume)


def _size(held: Sequence[_Held]) -> int:
    return sum([len(each[3][RAW]) for each in held])
