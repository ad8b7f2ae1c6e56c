"""The baselines on Kafka: the bare client, with the relay's properties."""

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.cimpl import NewTopic

from gatelog.core import kafka
from gatelog.core.settings import Settings
from gatelog.producer.relay.records import Record


@dataclass
class Seen:
    """A read_committed consumer of one topic, in a thread of its own: when each record came, by its ``ce_id``."""

    settings: Settings
    topic: str
    at: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _ready: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._consume)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _consume(self) -> None:
        own = {"group.id": f"bench-{secrets.token_hex(4)}", "isolation.level": "read_committed"}
        consumer = Consumer({**self.settings.kafka_properties, **own})
        places = [TopicPartition(self.topic, number) for number in range(self.settings.topic_partitions)]
        for place in places:
            place.offset = consumer.get_watermark_offsets(place, timeout=30)[1]
        consumer.assign(places)  # at a known offset: "latest" is found out only later
        self._ready.set()
        while not self._stop.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                name = dict(message.headers() or ())["ce_id"]
                self.at[name.decode() if isinstance(name, bytes) else str(name)] = time.monotonic()
        consumer.close()


def bare_producer(settings: Settings) -> KafkaProducer:
    """Return a transactional producer with the relay's properties, ready to begin."""
    own = kafka.client_properties(
        settings.kafka_properties,
        transactional_id="bare",
        linger_ms=5,
        queue_buffering_max_messages=100_000,
        partitioner="murmur2_random",
        delivery_report_only_error=True,
    )
    producer = KafkaProducer(own)
    producer.init_transactions(30)
    return producer


def bare_topic(settings: Settings) -> None:
    """Make the baseline's topic as the relay makes its own."""
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.create_topics([NewTopic("bare", num_partitions=settings.topic_partitions)]).values():
        future.result(30)


def bare_drain(settings: Settings, records: Sequence[Record], count: int) -> float:
    """The same number of records, made beforehand, in transactions of the same size."""
    producer = bare_producer(settings)
    rounds = count // len(records)
    begun = time.perf_counter()
    for _ in range(rounds):
        producer.begin_transaction()
        for _topic, key, content, headers, timestamp, _position in records:
            while True:
                try:
                    producer.produce("bare", content, key, timestamp=timestamp, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.01)
        producer.commit_transaction()
    return rounds * len(records) / (time.perf_counter() - begun)


def bare_latency(settings: Settings, record: Record) -> list[float]:
    """Seconds from the begin of a one-record transaction until the record is at a read_committed consumer."""
    producer = bare_producer(settings)
    found = []
    with Seen(settings, "bare") as seen:
        for number in range(300):
            _topic, key, content, headers, timestamp, _position = record
            begun = time.monotonic()
            producer.begin_transaction()
            producer.produce(
                "bare", content, key, timestamp=timestamp, headers=[*headers, ("ce_id", f"bare-{number}")]
            )
            producer.commit_transaction()
            while f"bare-{number}" not in seen.at:
                time.sleep(0.0002)
            found.append(seen.at[f"bare-{number}"] - begun)
    return found[50:]
