"""How soon brokers give up a silent member of a group under the consumer protocol: a configuration of the group."""

from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not all in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from gatelog.core import kafka

SESSION_TIMEOUT: Final = "consumer.session.timeout.ms"
HEARTBEAT_INTERVAL: Final = "consumer.heartbeat.interval.ms"
HEARTBEATS: Final = 6  # in one session timeout
SOON_MS: Final = 10_000  # what a group may have that cannot be given less


def hasten(properties: dict[str, str], group: str, timeout_ms: int) -> str | None:
    """Have brokers give up silent members of a group after ``timeout_ms``; return why they will not. Blocks.

    Raises:
        KafkaUnavailableError: no answer in time.
        SettingsError: Kafka refused the credentials.
    """
    client = kafka.admin(properties)

    def once(timeout_s: float) -> str | None:
        with kafka.translated(properties):
            return _hasten(client, group, timeout_ms, timeout_s)

    try:
        return kafka.patiently(once)
    except KafkaException as error:  # brokers before 4.0, and others' that have no such configuration
        return f"Kafka does not tell the configuration of group {group!r}: {error.args[0].str()}"


def _hasten(client: AdminClient, group: str, timeout_ms: int, timeout_s: float) -> str | None:
    group_of_name = ConfigResource(ResourceType.GROUP, group)
    found = client.describe_configs([group_of_name], request_timeout=timeout_s)[group_of_name].result()
    if SESSION_TIMEOUT not in found:
        return f"Kafka has no {SESSION_TIMEOUT} for group {group!r}"
    now_ms = int(found[SESSION_TIMEOUT].value)
    if now_ms == timeout_ms:
        return None
    wanted = {SESSION_TIMEOUT: timeout_ms, HEARTBEAT_INTERVAL: timeout_ms // HEARTBEATS}
    entries = [
        ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET) for name, value in wanted.items()
    ]
    changed = ConfigResource(ResourceType.GROUP, group, incremental_configs=entries)
    try:
        client.incremental_alter_configs([changed], request_timeout=timeout_s)[changed].result()
    except KafkaException as error:
        if error.args[0].retriable():
            raise
        if now_ms <= max(SOON_MS, timeout_ms):
            return None
        return (
            f"brokers would give up a silent member of group {group!r} only after {now_ms / 1000:g} s, and refuse "
            f"to change that: {error.args[0].str()}"
        )
    return None
