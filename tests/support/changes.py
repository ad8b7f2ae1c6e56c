"""What somebody does to a store's topics behind its back."""

from confluent_kafka import admin as kafka_admin
from confluent_kafka.cimpl import NewPartitions

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.settings import Settings


def alter(settings: Settings, name: str, value: str) -> None:
    """Set a configuration of the topic of notes."""
    admin = kafka.admin(settings.kafka_properties)
    # The client does not list these names in its __all__.
    entry = kafka_admin.ConfigEntry(  # type: ignore[attr-defined]
        name,
        value,
        incremental_operation=kafka_admin.AlterConfigOpType.SET,  # type: ignore[attr-defined]
    )
    topic = kafka_admin.ConfigResource(  # type: ignore[attr-defined]
        kafka_admin.ResourceType.TOPIC,  # type: ignore[attr-defined]
        topic_of(settings.store, "Note"),
        incremental_configs=[entry],
    )
    for future in admin.incremental_alter_configs([topic]).values():
        future.result(timeout=30)


def add_partitions(settings: Settings, total: int) -> None:
    """Give the topic of notes more partitions."""
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.create_partitions([NewPartitions(topic_of(settings.store, "Note"), total)]).values():
        future.result(timeout=30)
