"""The parked topic in Kafka: made when first needed, written with every replica's word, read back whole or on and on.

Everything here blocks: call it off the event loop. A ``ParkedTopic`` is used by one thread at a time.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NoReturn, Self, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic

from gatelog.core import asking, kafka, logs
from gatelog.core.errors import KafkaUnavailableError, TopicError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.telling import TEXT_CHARACTERS_MAX, TRACE_CHARACTERS_MAX, told
from gatelog.reader.subscriptions.parked import (
    Entry,
    ParkedEvent,
    parked_event,
    parked_topic_of,
)

WRITE_TIMEOUT_S: Final = 30.0
_ADDED_BYTES: Final = 4 * (TEXT_CHARACTERS_MAX + TRACE_CHARACTERS_MAX) + 4_096
_BATCH: Final = 500
_PASSES: Final = frozenset(  # a topic that is gone is made again
    {
        KafkaError._MSG_TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)

_log = logs.logger("subscription")

Word: TypeAlias = tuple[str, ParkedEvent | None]  # on an event: its id, and the event if it is parked
Read: TypeAlias = tuple[str, int, ParkedEvent | None]  # as it was read, with its offset


class ParkedTopic:
    """Reads and writes one subscription's parked topic."""

    def __init__(self, settings: Identified, subscription: str) -> None:
        """Connect when first asked."""
        self.name = parked_topic_of(settings, subscription)
        self._settings = settings
        self._properties = settings.kafka_properties
        self._consumer: Consumer | None = None
        self._reading: Consumer | None = None
        self._producer: Producer | None = None
        self.topic_id: str | None = None  # of the topic that `news` has read; None: there was none
        self.read_upto = 0  # the offset up to which `news` has returned everything

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        for consumer in (self._consumer, self._reading):
            if consumer is not None:
                consumer.close()
        self._consumer = self._reading = None

    # --- reading ---------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Say whether anything was ever parked.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        if self._consumer is None:
            self._consumer = self._new_consumer()
        found = kafka.metadata_of(self._consumer, self._properties, self.name)
        return self.name in found and found[self.name].error is None

    def news(self) -> list[Read]:
        """Return everything that was written since the last call, up to the end of the topic as it is now.

        Where ``topic_id`` is another one afterwards, it is everything that this topic holds.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        topic_id = asking.ids(self._properties, [self.name]).get(self.name)
        if topic_id != self.topic_id:
            self._close_reading()
            self.topic_id, self.read_upto = topic_id, 0
        if topic_id is None:
            return []
        begin = self.read_upto
        try:
            return self._read()
        except BaseException:  # what was read is not told: read it again
            self._close_reading()
            self.read_upto = begin
            raise

    def _read(self) -> list[Read]:
        if self._reading is None:
            self._reading = self._new_consumer()
            self._reading.assign([TopicPartition(self.name, 0, self.read_upto)])
        words: list[Read] = []
        end = asking.ends(self._properties, [(self.name, 0)], committed=True)[self.name, 0]
        deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
        while self.read_upto < end:
            first = self._reading.poll(1.0)
            if first is not None:
                deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
                for message in [first, *self._reading.consume(_BATCH, timeout=0)]:
                    words += self._words(message)
            elif time.monotonic() > deadline:
                raise KafkaUnavailableError(f"Kafka does not deliver the records of topic {self.name!r}.")
        return words

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _words(self, message: Message) -> Iterator[Read]:
        error, offset = message.error(), message.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self.read_upto = max(self.read_upto, offset or 0)  # the last records may have been compacted away
                return
            with kafka.translated(self._properties):
                raise KafkaException(error)
        assert offset is not None
        self.read_upto = offset + 1
        key, value = message.key(), message.value()
        if value is None:
            yield (key.decode() if isinstance(key, bytes) else str(key)), offset, None
            return
        try:
            found = parked_event(message.headers(), value)
        except UndecodableRecordError as problem:
            _log.error("parked.unreadable", topic=self.name, offset=offset, reason=told(problem))
            return
        yield found.event_id, offset, found

    def all(self) -> list[ParkedEvent]:
        """Return what is parked now, in the order of positions.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        newest = {event_id: event for event_id, _, event in self.news()}
        return sorted((event for event in newest.values() if event is not None), key=lambda event: event.position)

    def at(self, offset: int) -> ParkedEvent | None:
        """Return the record at an offset; None when it has been compacted away, because there is a newer word.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        if self._consumer is None:
            self._consumer = self._new_consumer()
        self._consumer.assign([TopicPartition(self.name, 0, offset)])
        message = self._consumer.poll(kafka.REQUEST_TIMEOUT_S)
        self._consumer.unassign()
        if message is None:
            raise KafkaUnavailableError(f"Kafka does not deliver offset {offset} of topic {self.name!r}.")
        if message.error() is not None or message.offset() != offset or (value := message.value()) is None:
            return None
        return parked_event(message.headers(), value)

    def _new_consumer(self) -> Consumer:
        own = kafka.client_properties(
            self._properties,
            group_id="gatelog-parked",  # never joined, never committed to
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_wait_max_ms=10,
            fetch_queue_backoff_ms=0,
        )
        with kafka.legal(self._properties):
            return Consumer(own)

    # --- writing ---------------------------------------------------------------------------------------

    def write(self, words: Sequence[Word]) -> list[int]:
        """Write words on events, in order, and wait until Kafka has them; return their offsets.

        What is too large for the topic is written with less of it: its limit may be older than a setting, or another
        one than ours, and who writes events need not have the right to change it.

        Raises:
            KafkaUnavailableError: not within 30 s; some of them may be there.
            TopicError: Kafka refused them, or the topic.
        """
        return [
            self._write_lighter(word) if answer is None else answer
            for word, answer in zip(words, self._write_all(words), strict=True)
        ]

    def _write_lighter(self, word: Word) -> int:
        """Write what was refused: alone, for records that are sent together are refused together, then as less."""
        event_id, event = word
        for form in (event,) if event is None else (event, *event.lighter()):
            (offset,) = self._write_all([(event_id, form)])
            if offset is not None:
                if form is not event:
                    _log.warning(
                        "parked.cut", topic=self.name, event_id=event_id, has_payload=bool(form and form.value)
                    )
                return offset
        raise TopicError(
            f"Topic {self.name!r} takes no record as small as the reference to an event: raise its max.message.bytes."
        )

    def _write_all(self, words: Sequence[Word]) -> list[int | None]:
        """Return the offset of each; None where it is too large."""
        if self._producer is None:
            self._ensure()
            self._producer = self._new_producer()
        offsets: list[int | None] = [None] * len(words)
        problems: list[KafkaError] = []

        def delivered(nth: int, error: KafkaError | None, message: Message | None) -> None:
            if message is not None and error is None:
                offsets[nth] = message.offset()
            elif error is not None and error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
                problems.append(error)

        for nth, word in enumerate(words):
            answer = partial(delivered, nth)
            try:
                _produce(self._producer, self.name, word, answer)
            except KafkaException as error:
                answer(error.args[0], None)
        if self._producer.flush(WRITE_TIMEOUT_S) > 0:
            self._producer = None
            raise KafkaUnavailableError(
                f"Kafka did not take records for topic {self.name!r} in {WRITE_TIMEOUT_S:g} s."
            )
        if problems:
            self._producer = None
            self._raise(problems[0])
        return offsets

    def _raise(self, problem: KafkaError) -> NoReturn:
        with kafka.translated(self._properties):
            if problem.retriable() or problem.code() in _PASSES:
                raise KafkaUnavailableError(f"Kafka did not take records for topic {self.name!r}: {problem}")
        raise TopicError(f"Kafka refused a record for topic {self.name!r}: {problem.str()}")

    def _new_producer(self) -> Producer:
        own = kafka.client_properties(
            self._properties,
            enable_idempotence=True,
            acks="all",
            message_max_bytes=self._settings.record_bytes_max + _ADDED_BYTES,
            message_timeout_ms=int(WRITE_TIMEOUT_S * 1000),
            linger_ms=0,
        )
        with kafka.legal(self._properties):
            return Producer(own)

    def _ensure(self) -> None:
        if self.exists():
            return
        config = {
            "cleanup.policy": "compact",
            "max.message.bytes": str(self._settings.record_bytes_max + _ADDED_BYTES),
        }
        if self._settings.topic_min_insync_replicas is not None:
            config["min.insync.replicas"] = str(self._settings.topic_min_insync_replicas)
        made = NewTopic(
            self.name, num_partitions=1, replication_factor=self._settings.topic_replication, config=config
        )
        admin = kafka.admin(self._properties)
        future = admin.create_topics([made], request_timeout=kafka.REQUEST_TIMEOUT_S)[self.name]
        try:
            with kafka.translated(self._properties):
                future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"Kafka refused to create topic {self.name!r}: {error.args[0].str()}") from error


def _produce(
    producer: Producer, topic: str, word: Word, answer: Callable[[KafkaError | None, Message], None]
) -> None:
    event_id, event = word
    headers = [] if event is None else event.record_headers()
    value = None if event is None else event.value
    try:
        producer.produce(topic, value, event_id, partition=0, headers=headers, on_delivery=answer)
    except BufferError:  # as much is under way as the client holds
        producer.flush(WRITE_TIMEOUT_S)
        producer.produce(topic, value, event_id, partition=0, headers=headers, on_delivery=answer)


def entry_of(event: ParkedEvent, offset: int) -> Entry:
    """Return what a member keeps of a parked event whose record stands at ``offset``."""
    return Entry(
        event.event_id,
        event.stream,
        event.version,
        event.position,
        event.place,
        event.offset,
        event.state,
        event.attempts == 0,
        offset,
    )
