"""The Kafka client of a group member: its properties, and which of its errors pass by themselves."""

from collections.abc import Callable
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from gatelog.core import kafka, logs
from gatelog.core.errors import GatelogError, HistoryGoneError
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions import takeover
from gatelog.reader.subscriptions.places import Joining

TOPIC_REFRESH_MS: Final = 1_000  # how soon a new category is seen
FETCH_BACKOFF_MS: Final = 10  # by default a full prefetch stops for a second
PREFETCH_EVENTS: Final = 20_000  # a partition
PREFETCH_KBYTES: Final = 8 * 1024  # a partition

_log = logs.logger("subscription")

# What librdkafka says of a broker without the protocol: the reason itself is in the text only.
_UNSUPPORTED: Final = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._FATAL})
STALE: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)


class ProtocolNotSupportedError(GatelogError):
    """The broker does not have the group protocol that was asked for, or would replace members late under it."""

    exit_code = 2


def hasten(settings: Settings, group: str) -> None:
    """Have others take over soon from a member that dies, under the consumer protocol. Blocks.

    Raises:
        ProtocolNotSupportedError: brokers would take long, and another protocol may be chosen.
        KafkaUnavailableError: no answer in time.
    """
    reason = takeover.hasten(settings.kafka_properties, group, _session_timeout_ms(settings))
    if reason is not None and settings.subscription_protocol == "auto":
        raise ProtocolNotSupportedError(reason)
    if reason is not None:
        _log.warning("subscription.slow_takeover", group=group, reason=reason)


def _session_timeout_ms(settings: Settings) -> int:
    return int(settings.subscription_session_timeout_s * 1000)


def new_consumer(
    settings: Settings,
    joining: Joining,
    protocol: str,
    on_commit: Callable[[KafkaError | None, list[TopicPartition]], None],
) -> Consumer:
    """Return a consumer that may join the group; ``on_commit`` gets the answers to commits.

    Raises:
        SettingsError: Kafka is not configured, or a property is wrong.
    """
    own: dict[str, str | int | bool] = {
        "group_id": joining.group,
        "enable_auto_commit": False,
        "enable_auto_offset_store": False,
        "auto_offset_reset": "error",  # we say where to begin; what is gone is named, never jumped over
        "isolation_level": "read_committed",
        "topic_metadata_refresh_interval_ms": TOPIC_REFRESH_MS,
        "fetch_wait_max_ms": 50,
        "fetch_queue_backoff_ms": FETCH_BACKOFF_MS,
        "queued_min_messages": PREFETCH_EVENTS,
        "queued_max_messages_kbytes": PREFETCH_KBYTES,
    }
    if protocol == "consumer":
        own["group_protocol"] = "consumer"
    else:
        own["partition_assignment_strategy"] = "cooperative-sticky"
        own["session_timeout_ms"] = _session_timeout_ms(settings)
        own["heartbeat_interval_ms"] = _session_timeout_ms(settings) // takeover.HEARTBEATS
    properties = kafka.client_properties(settings.kafka_properties, **own)
    properties["on_commit"] = on_commit
    with kafka.legal(settings.kafka_properties):
        return Consumer(properties)


def check_error(message: Message, properties: dict[str, str], group: str, *, may_lack_protocol: bool) -> None:
    """Log an error that passes by itself. ``may_lack_protocol``: KIP-848 is asked for, and nothing was assigned yet.

    Raises:
        ProtocolNotSupportedError: the broker does not have the protocol.
        HistoryGoneError: the next record is gone.
        SettingsError, KafkaException: it does not pass.
    """
    error = message.error()
    assert error is not None
    code = error.code()
    if code in _UNSUPPORTED and may_lack_protocol:
        raise ProtocolNotSupportedError(
            f"Kafka does not have the consumer group protocol ({error.str()}). "
            "Set subscription_protocol to auto or classic."
        )
    if code == KafkaError._AUTO_OFFSET_RESET:
        raise HistoryGoneError(message.topic() or "", message.partition() or 0, message.offset(), error.str())
    if error.fatal() or code in {
        KafkaError._FATAL,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    }:
        with kafka.translated(properties):
            raise KafkaException(error)
    if code != KafkaError.UNKNOWN_TOPIC_OR_PART:  # a category without events yet
        _log.warning("subscription.kafka", group=group, error=error.name(), detail=error.str())
