"""Kafka is asked for offsets with patience: what passes is waited out."""

import asyncio

from confluent_kafka.cimpl import NewTopic

from gatelog.core import kafka, tail
from gatelog.core.settings import Settings


async def test_a_topic_that_brokers_do_not_know_yet(settings: Settings) -> None:
    """It was seen to exist, by a broker that is ahead of the one that is asked."""
    topic, admin = f"{settings.store}.Note", kafka.admin(settings.kafka_properties)
    asked = asyncio.create_task(asyncio.to_thread(tail.ends_of, settings.kafka_properties, {topic: 1}))
    done, _ = await asyncio.wait([asked], timeout=1.0)  # long enough for an answer: it is what is tried
    assert not done, "it was to ask again"
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result()
    assert await asked == {topic: [0]}
