"""What Kafka says about a store's topics: which there are, where their partitions begin and end."""

import asyncio
import re
from collections.abc import Collection
from typing import Final

from confluent_kafka.admin import AdminClient

from gatelog.core import asking, kafka
from gatelog.core.asking import End
from gatelog.core.domain import topic_of, topic_pattern
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions.merge import Place

LEADERS_MOVE_S: Final = 0.2


class Topics:
    """The topics of some categories of a store, or of all of them. Asked in threads; no call blocks the loop."""

    def __init__(self, settings: Settings, categories: Collection[str] | None) -> None:
        """Nothing is asked yet."""
        self._properties = settings.kafka_properties
        self._pattern = re.compile(topic_pattern(settings.store))
        self.wanted = None if categories is None else {topic_of(settings.store, category) for category in categories}
        self._admin: AdminClient | None = None

    async def partitions(self) -> dict[str, int]:
        """Return the topics that exist, with their numbers of partitions.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await asyncio.to_thread(self._partitions)

    def _partitions(self) -> dict[str, int]:
        found = kafka.partitions_of(self._client(), self._properties)
        return {topic: count for topic, count in found.items() if count and self._is_wanted(topic)}

    def _is_wanted(self, topic: str) -> bool:
        return self._pattern.match(topic) is not None if self.wanted is None else topic in self.wanted

    async def beginnings(self, places: Collection[Place]) -> dict[Place, int]:
        """Return the first offset that each partition still has.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await asyncio.to_thread(asking.begins, self._properties, places)

    async def ends(self, places: Collection[Place]) -> dict[Place, int]:
        """Return the end of each partition, behind what is not committed yet: nothing that was written is beyond it.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await asyncio.to_thread(asking.ends, self._properties, places)

    async def stands(self, places: Collection[Place]) -> dict[Place, End]:
        """Return the end of each partition as ``ends`` does, with the epoch of the leader that named it.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await asyncio.to_thread(asking.stands, self._properties, places)

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = kafka.admin(self._properties)
        return self._admin
