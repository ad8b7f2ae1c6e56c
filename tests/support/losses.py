"""What is lost, and what strangers write: topics, tables, records."""

import asyncio
from collections.abc import Sequence

import asyncpg
from confluent_kafka import Producer, TopicPartition

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.settings import Settings
from support.kafka import Seen
from support.waiting import until


def delete_topic(settings: Settings, category: str) -> None:
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.delete_topics([topic_of(settings.store, category)]).values():
        future.result(timeout=30)


async def topics_are_gone(settings: Settings, category: str = "") -> None:
    """Wait until Kafka has done what it was told: brokers list a topic that was deleted for a moment more."""
    gone = topic_of(settings.store, category)

    async def are_gone() -> bool:
        found = await asyncio.to_thread(kafka.partitions_of, kafka.admin(settings.kafka_properties), settings.kafka)
        return not any(name == gone or (not category and name.startswith(gone)) for name in found)

    await until(are_gone, "the topics are gone")


async def lose_topic(settings: Settings, category: str) -> None:
    """Delete a topic, and wait until nobody sees it any more."""
    await asyncio.to_thread(delete_topic, settings, category)
    await topics_are_gone(settings, category)


def truncate(settings: Settings, before: Seen) -> None:
    """Remove what a partition holds before a record, as retention does."""
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.delete_records([TopicPartition(before.topic, before.partition, before.offset)]).values():
        future.result()


def write(settings: Settings, like: Seen, headers: Sequence[dict[str, str]], value: bytes | None = None) -> None:
    """Write records with these headers beside one that was seen, as a stranger would."""
    writer = Producer({"bootstrap.servers": settings.kafka_properties["bootstrap.servers"]})
    for each in headers:
        encoded: list[tuple[str, str | bytes | None]] = [(name, text.encode()) for name, text in each.items()]
        content = like.value if value is None else value
        writer.produce(like.topic, key=like.key, value=content, headers=encoded, partition=like.partition)
    assert writer.flush(20) == 0


async def empty_index(settings: Settings) -> None:
    """Lose the rows of the index, by a superuser's hand."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(
        f"ALTER TABLE {settings.store}.events DISABLE TRIGGER ALL; TRUNCATE {settings.store}.events;"
        f"ALTER TABLE {settings.store}.events ENABLE TRIGGER ALL"
    )
    await connection.close()
