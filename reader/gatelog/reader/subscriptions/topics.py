"""What Kafka says about a store's topics: which there are, where their partitions begin and end."""

import asyncio
import re
import time
from collections.abc import Collection
from typing import Final

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined] # public, not in its __all__

from gatelog.core import kafka
from gatelog.core.domain import topic_of, topic_pattern
from gatelog.core.errors import KafkaUnavailableError
from gatelog.core.settings import Settings
from gatelog.core.tail import End
from gatelog.reader.subscriptions.merge import Place

LEADERS_MOVE_S: Final = 0.2

_BEGINNING: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call] # annotated incompletely
_END: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call] # annotated incompletely


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
        return await asyncio.to_thread(self._offsets, places, _BEGINNING)

    async def ends(self, places: Collection[Place]) -> dict[Place, int]:
        """Return the end of each partition, behind what is not committed yet: nothing that was written is beyond it.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await asyncio.to_thread(self._offsets, places, _END)

    async def stands(self, places: Collection[Place]) -> dict[Place, End]:
        """Return the end of each partition as ``ends`` does, with the epoch of the leader that named it.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await asyncio.to_thread(self._patiently, places, _END)

    def _offsets(self, places: Collection[Place], which: OffsetSpec) -> dict[Place, int]:
        return {place: end.offset for place, end in self._patiently(places, which).items()}

    def _patiently(self, places: Collection[Place], which: OffsetSpec) -> dict[Place, End]:
        """Ask, and ask again while leaders move: a topic that was just made may have none yet."""
        deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
        while True:
            try:
                return self._asked(places, which) if places else {}
            except KafkaUnavailableError:
                if time.monotonic() > deadline:
                    raise
                self._admin = None  # what it believes of leaders may be out of date
                time.sleep(LEADERS_MOVE_S)

    def _asked(self, places: Collection[Place], which: OffsetSpec) -> dict[Place, End]:
        with kafka.translated(self._properties):
            futures = self._client().list_offsets(
                {TopicPartition(topic, partition): which for topic, partition in places},
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=kafka.REQUEST_TIMEOUT_S,
            )
            answers = {(place.topic, place.partition): future.result() for place, future in futures.items()}
        return {place: End(answer.offset, answer.leader_epoch) for place, answer in answers.items()}

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = kafka.admin(self._properties)
        return self._admin
