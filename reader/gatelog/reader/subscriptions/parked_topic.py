"""The parked topic in Kafka: made when first needed, written with every replica's word, read back whole or on and on.

Everything here blocks: call it off the event loop. A ``ParkedTopic`` is used by one thread at a time.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic

from gatelog.core import asking, kafka, logs
from gatelog.core.errors import KafkaUnavailableError, TopicError, UndecodableRecordError
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions.parked import (
    REASON_CHARACTERS_MAX,
    TRACE_CHARACTERS_MAX,
    Entry,
    ParkedEvent,
    parked_event,
    parked_topic_of,
)

WRITE_TIMEOUT_S: Final = 30.0
_ADDED_BYTES: Final = 4 * (REASON_CHARACTERS_MAX + TRACE_CHARACTERS_MAX) + 4_096
_BATCH: Final = 500

_log = logs.logger("subscription")

Word = tuple[
    str, int, ParkedEvent | None
]  # the newest word on an event: its id, offset, and the event if it is parked


class ParkedTopic:
    """Reads and writes one subscription's parked topic."""

    def __init__(self, settings: Settings, subscription: str) -> None:
        """Connect when first asked."""
        self.name = parked_topic_of(settings.store, subscription)
        self._settings = settings
        self._properties = settings.kafka_properties
        self._consumer: Consumer | None = None
        self._reading: Consumer | None = None
        self._producer: Producer | None = None
        self._next = 0
        self._untold: list[Word] = []  # what was read before something failed

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

    def news(self) -> list[Word]:
        """Return everything that was written since the last call, up to the end of the topic as it is now.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        if self._next == 0 and not self.exists():
            return []
        if self._reading is None:
            self._reading = self._new_consumer()
            self._reading.assign([TopicPartition(self.name, 0, self._next)])
        end = asking.ends(self._properties, [(self.name, 0)], committed=True)[self.name, 0]
        deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
        while self._next < end:
            first = self._reading.poll(1.0)
            if first is not None:
                deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
                for message in [first, *self._reading.consume(_BATCH, timeout=0)]:
                    self._untold += self._words(message)
            elif time.monotonic() > deadline:
                raise KafkaUnavailableError(f"Kafka does not deliver the records of topic {self.name!r}.")
        words, self._untold = self._untold, []
        return words

    def _words(self, message: Message) -> Iterator[Word]:
        error, offset = message.error(), message.offset()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._next = max(self._next, offset or 0)  # the last records may have been compacted away
                return
            with kafka.translated(self._properties):
                raise KafkaException(error)
        assert offset is not None
        self._next = offset + 1
        key, value = message.key(), message.value()
        if value is None:
            yield (key.decode() if isinstance(key, bytes) else str(key)), offset, None
            return
        try:
            found = parked_event(message.headers(), value)
        except UndecodableRecordError as problem:
            _log.error("parked.unreadable", topic=self.name, offset=offset, reason=str(problem))
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

    def write(self, words: Iterable[tuple[str, ParkedEvent | None]]) -> list[int]:
        """Write words on events, in order, and wait until Kafka has them; return their offsets.

        Raises:
            KafkaUnavailableError: not within 30 s; some of them may be there.
            TopicError: Kafka refused them, or the topic.
        """
        if self._producer is None:
            self._ensure()
            self._producer = self._new_producer()
        offsets: list[int] = []
        problems: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                problems.append(error)
            offsets.append(message.offset() or 0)

        for event_id, event in words:
            headers = [] if event is None else event.record_headers()
            value = None if event is None else event.value
            self._producer.produce(self.name, value, event_id, partition=0, headers=headers, on_delivery=delivered)
        if self._producer.flush(WRITE_TIMEOUT_S) > 0:
            self._producer = None
            raise KafkaUnavailableError(
                f"Kafka did not take records for topic {self.name!r} in {WRITE_TIMEOUT_S:g} s."
            )
        if problems:
            self._producer = None
            with kafka.translated(self._properties):
                if problems[0].retriable() or problems[0].code() == KafkaError._MSG_TIMED_OUT:
                    raise KafkaUnavailableError(f"Kafka did not take records for topic {self.name!r}: {problems[0]}")
            raise TopicError(f"Kafka refused a record for topic {self.name!r}: {problems[0].str()}")
        return offsets

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


def entry_of(event: ParkedEvent, offset: int) -> Entry:
    """Return what a member keeps of a parked event whose record stands at ``offset``."""
    return Entry(event.event_id, event.stream, event.version, event.place, event.state, event.attempts == 0, offset)
