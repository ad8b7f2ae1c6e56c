"""Topics of a store: one a category, created as configured before the first record, never by auto-creation.

Topics that exist are held against the settings, and against what they were: what is only weaker is logged, what would
lose events, or split a stream, is refused.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined] # not in its __all__
from confluent_kafka.cimpl import NewTopic

from gatelog.core import kafka, logs, tail
from gatelog.core.domain import topic_of
from gatelog.core.errors import KafkaUnavailableError, TopicError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.producer.relay import recovery

_UNBOUNDED: Final = "-1"

_log = logs.logger("relay")


class Difference(NamedTuple):
    """Something about a topic that is not as configured, and how to make it so."""

    what: str
    found: str
    wanted: str
    fix: str


class Topics:
    """Knows which topics exist, and makes those that are missing. Blocks: call it off the event loop."""

    def __init__(self, settings: Identified) -> None:
        """Create and check topics by the partitions, replication and min ISR of ``settings``."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._admin = kafka.admin(self._properties)
        self._namesakes = Namesakes(settings)
        self.partitions: dict[str, int] = {}  # of each topic, as it was first seen: there its streams are
        self._known: dict[str, int] = {}
        self._replicas: dict[str, int] = {}
        self._checked: set[str] = set()
        self._told: set[tuple[str, object]] = set()

    def of_store(self) -> dict[str, int]:
        """Return the store's topics as Kafka has them now, with their number of partitions.

        Raises:
            TopicError: a topic has another number of partitions than before.
            KafkaUnavailableError: no answer in time.
        """
        prefix = topic_of(self._settings.store, "")
        found = kafka.metadata_of(self._admin, self._properties)
        topics = {
            name: topic.partitions for name, topic in found.items() if name.startswith(prefix) and topic.partitions
        }
        self._known = {name: len(partitions) for name, partitions in topics.items()}
        self._replicas = {
            name: min(len(each.replicas) for each in partitions.values()) for name, partitions in topics.items()
        }
        for name, count in self._known.items():
            if (before := self.partitions.setdefault(name, count)) != count:
                raise TopicError(
                    f"Topic {name!r} has {count} partitions now, and had {before} when its events were published: "
                    "whoever reads would look for a stream in another partition than it is in. Nothing was published "
                    "to the new ones. Kafka takes no partitions away: stop relays and indexers, delete the topic, "
                    "and run `gatelog republish`, which makes it anew from the index."
                )
        return dict(self._known)

    def compared(self, seen: tail.Ends) -> tail.Ends:
        """Return the ends of the topics that are known; see ``recovery.compared``."""
        return recovery.compared(self._properties, self._known, seen)

    def knows(self, categories: Iterable[str]) -> bool:
        """Say whether the topics of ``categories`` are known to exist, and checked; asks nobody."""
        return all(topic_of(self._settings.store, category) in self._checked for category in categories)

    def ensure(self, categories: Iterable[str]) -> None:
        """Create the topics of ``categories`` that do not exist yet, and check those that do.

        Raises:
            TopicError: Kafka refused to create one, or one would lose events or split streams.
            ForeignStoreError: one is another store's of the same name.
            KafkaUnavailableError: no answer in time.
        """
        wanted = {topic_of(self._settings.store, category) for category in categories}
        self.of_store()
        if missing := wanted - self._known.keys():
            self._create(missing)
            kafka.patiently(lambda _: self._await(wanted))
        self.check(wanted)

    def _await(self, wanted: set[str]) -> None:
        if missing := wanted - self.of_store().keys():
            raise KafkaUnavailableError(f"Kafka does not know topics yet that were just made: {sorted(missing)}.")

    def check(self, names: Iterable[str]) -> None:
        """Log how topics differ from the settings; those that were not looked at yet.

        Raises:
            TopicError: one is compacted, which loses events.
            ForeignStoreError: one is another store's of the same name.
            KafkaUnavailableError: no answer in time.
        """
        self._look_at(sorted(set(names) - self._checked))

    def look_again(self) -> None:
        """Log what differs now, and did not when it was looked at last.

        Raises:
            TopicError: one is compacted, or has another number of partitions.
            ForeignStoreError: one is another store's of the same name.
            KafkaUnavailableError: no answer in time.
        """
        self._look_at(sorted(self.of_store()))

    def _look_at(self, names: list[str]) -> None:
        if not names:
            return
        self._namesakes.refuse({name: self._known[name] for name in names if name in self._known})
        told: set[tuple[str, object]] = set()
        for name, config in self._configs(names).items():
            if isinstance(config, str):
                told.add((name, config))
                if (name, config) not in self._told:
                    _log.warning("topic.not_checked", topic=name, error=config)
                continue
            if "compact" in config.get("cleanup.policy", ""):
                raise TopicError(
                    f"Topic {name!r} is compacted: Kafka removes all but the last event of each stream. Stop that at "
                    f"once: {_alter(name, 'cleanup.policy=delete')}"
                )
            for difference in self._differences(name, config):
                told.add((name, difference))
                if (name, difference) not in self._told:
                    _log.warning("topic.differs", topic=name, **difference._asdict())
        self._told = told | {each for each in self._told if each[0] not in names}
        self._checked.update(names)

    def _differences(self, name: str, config: dict[str, str]) -> Iterator[Difference]:
        settings = self._settings
        for what in ("retention.ms", "retention.bytes"):
            if (found := config.get(what, _UNBOUNDED)) != _UNBOUNDED:
                yield Difference(what, found, _UNBOUNDED, _alter(name, f"{what}=-1"))
        least = {"max.message.bytes": settings.record_bytes_max}
        if settings.topic_min_insync_replicas is not None:
            least["min.insync.replicas"] = settings.topic_min_insync_replicas
        for what, wanted in least.items():
            if int(config.get(what, wanted)) < wanted:
                yield Difference(what, config[what], str(wanted), _alter(name, f"{what}={wanted}"))
        replicas = self._replicas.get(name, settings.topic_replication)
        if replicas < settings.topic_replication:
            fix = "kafka-reassign-partitions, with more replicas for each partition"
            yield Difference("replication factor", str(replicas), str(settings.topic_replication), fix)
        if (partitions := self._known.get(name, settings.topic_partitions)) != settings.topic_partitions:
            fix = "none: the number is fixed for a topic's life; set topic_partitions of new topics only"
            yield Difference("partitions", str(partitions), str(settings.topic_partitions), fix)

    def _configs(self, names: Iterable[str]) -> dict[str, dict[str, str] | str]:
        """Return the configuration of topics; of those that Kafka does not show us, the reason."""
        asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        configs: dict[str, dict[str, str] | str] = {}
        for resource, future in self._admin.describe_configs(asked, request_timeout=kafka.REQUEST_TIMEOUT_S).items():
            try:
                with kafka.translated(self._properties):
                    entries = future.result()
            except KafkaException as error:
                configs[resource.name] = error.args[0].str()
            else:
                configs[resource.name] = {entry.name: entry.value for entry in entries.values() if entry.value}
        return configs

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
            self._checked.add(name)
            _log.info("topic.created", topic=name, partitions=self._settings.topic_partitions)

    def _config(self) -> dict[str, Any]:
        config = {
            "retention.ms": _UNBOUNDED,
            "retention.bytes": _UNBOUNDED,
            "cleanup.policy": "delete",
            "max.message.bytes": str(self._settings.record_bytes_max),
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": str(2**63 - 1),  # a broker's clock does not stop the log
        }
        if self._settings.topic_min_insync_replicas is not None:
            config["min.insync.replicas"] = str(self._settings.topic_min_insync_replicas)
        return config


def _alter(name: str, config: str) -> str:
    return f"kafka-configs --alter --topic {name} --add-config {config}"
