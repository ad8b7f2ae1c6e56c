"""Topics of a store: one a category, created as configured before the first record, never by auto-creation."""

from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.cimpl import NewTopic

from gatelog.core import kafka, logs
from gatelog.core.domain import topic_of
from gatelog.core.errors import TopicError
from gatelog.core.settings import Settings

_log = logs.logger("relay")


class Topics:
    """Knows which topics exist, and makes those that are missing. Blocks: call it off the event loop."""

    def __init__(self, settings: Settings) -> None:
        """Create topics with the partitions, replication and min ISR of ``settings``."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._admin = kafka.admin(self._properties)
        self._known: dict[str, int] = {}

    def of_store(self) -> dict[str, int]:
        """Return the store's topics as Kafka has them now, with their number of partitions.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        prefix = topic_of(self._settings.store, "")
        found = kafka.partitions_of(self._admin, self._properties)
        self._known = {name: partitions for name, partitions in found.items() if name.startswith(prefix)}
        return dict(self._known)

    def knows(self, categories: Iterable[str]) -> bool:
        """Say whether the topics of ``categories`` are known to exist; asks nobody."""
        return all(topic_of(self._settings.store, category) in self._known for category in categories)

    def ensure(self, categories: Iterable[str]) -> None:
        """Create the topics of ``categories`` that do not exist yet.

        Raises:
            TopicError: Kafka refused to create one.
            KafkaUnavailableError: no answer in time.
        """
        wanted = {topic_of(self._settings.store, category) for category in categories}
        self.of_store()
        if missing := wanted - self._known.keys():
            self._create(missing)
            self.of_store()

    def _create(self, names: set[str]) -> None:
        made = [
            NewTopic(
                name,
                num_partitions=self._settings.topic_partitions,
                replication_factor=self._settings.topic_replication,
                config=self._config(),
            )
            for name in sorted(names)
        ]
        for name, future in self._admin.create_topics(made, request_timeout=kafka.REQUEST_TIMEOUT_S).items():
            try:
                with kafka.translated(self._properties):
                    future.result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue
                raise TopicError(f"Kafka refused to create topic {name!r}: {error.args[0].str()}") from error
            _log.info("topic.created", topic=name, partitions=self._settings.topic_partitions)

    def _config(self) -> dict[str, Any]:
        config = {
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "cleanup.policy": "delete",
            "max.message.bytes": str(self._settings.record_bytes_max),
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": str(2**63 - 1),  # a broker's clock does not stop the log
        }
        if self._settings.topic_min_insync_replicas is not None:
            config["min.insync.replicas"] = str(self._settings.topic_min_insync_replicas)
        return config
