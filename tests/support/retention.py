"""What retention does to a store's topics, done at once."""

import asyncio
from collections.abc import Mapping

from confluent_kafka import TopicPartition

from gatelog.core import kafka
from gatelog.core.settings import Settings
from gatelog.reader import Reader
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.topics import Topics
from support.waiting import until


async def forget(settings: Settings) -> None:
    """Remove every record that is in the topics now."""
    topics = Topics(settings, None)
    places = [(topic, p) for topic, count in (await topics.partitions()).items() for p in range(count)]
    await forget_before(settings, await topics.ends(places))


async def forget_before(settings: Settings, offsets: Mapping[Place, int]) -> None:
    """Remove the records before these offsets."""
    admin = kafka.admin(settings.kafka_properties)
    asked = admin.delete_records([TopicPartition(*place, offset) for place, offset in offsets.items()])
    for future in asked.values():
        await asyncio.to_thread(future.result, 30)


async def indexed(reader: Reader, position: int) -> None:
    """Wait until the index misses nothing up to a position."""

    async def is_there() -> bool:
        return await reader.frontier() >= position

    await until(is_there, f"position {position} is indexed")
