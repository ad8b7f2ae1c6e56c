"""What Kafka holds, seen by a plain consumer that knows nothing of gatelog's reader."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from gatelog.core.settings import Settings

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Seen:
    """A record as any consumer sees it."""

    topic: str
    partition: int
    offset: int
    key: str
    headers: dict[str, str]
    value: bytes
    timestamp: tuple[int, int] = (0, 0)  # its kind, milliseconds

    @property
    def position(self) -> int:
        return int(self.headers["ce_position"])

    @property
    def event_id(self) -> UUID:
        return UUID(self.headers["ce_id"])


def records_of(settings: Settings) -> list[Seen]:
    """Read every committed record of a store's topics, partition by partition in offset order."""
    consumer = Consumer(
        {
            **settings.kafka_properties,
            "group.id": f"judge-{uuid4()}",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    try:
        topics = consumer.list_topics(timeout=TIMEOUT_S).topics
        places = [
            TopicPartition(name, partition, OFFSET_BEGINNING)
            for name, topic in topics.items()
            if name.startswith(f"{settings.store}.")
            for partition in topic.partitions
        ]
        consumer.assign(places)
        return _read(consumer, len(places))
    finally:
        consumer.close()


def _read(consumer: Consumer, partitions: int) -> list[Seen]:
    seen: list[Seen] = []
    ended = 0
    while ended < partitions:
        message = consumer.poll(TIMEOUT_S)
        assert message is not None, "Kafka is silent"
        if (error := message.error()) is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            ended += 1
            continue
        topic, partition, offset, key = message.topic(), message.partition(), message.offset(), message.key()
        value = message.value()
        assert isinstance(value, bytes)
        assert topic is not None
        assert partition is not None
        assert offset is not None
        headers = {name: _text(content) for name, content in dict(message.headers() or ()).items()}
        seen.append(Seen(topic, partition, offset, _text(key), headers, value, message.timestamp()))
    return sorted(seen, key=lambda record: (record.topic, record.partition, record.offset))


def _text(content: str | bytes | None) -> str:
    return content.decode() if isinstance(content, bytes) else content or ""
