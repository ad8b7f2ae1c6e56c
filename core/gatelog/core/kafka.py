"""Kafka access through librdkafka: properties, logging, and foreign errors translated once."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not all in its __all__
    AdminClient,
    ConfigResource,
    ResourceType,
    TopicMetadata,
)

from gatelog.core import logs
from gatelog.core.domain import topic_of
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError, SettingsError

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 10.0
_ASK_S: Final = 3.0  # for one try: a broker that is frozen answers none, and another one leads after some seconds
_AGAIN_S: Final = 0.2
_LOOK_BYTES: Final = 64 * 1024
REPORT_INTERVAL_S: Final = 10.0
RECONNECT_INTERVAL_MAX_MS: Final = 1_000  # librdkafka's 10 s would be added to every outage
SOCKET_TIMEOUT_MS: Final = 5_000  # then a broker is taken for frozen, and others are asked; librdkafka waits for 60 s

_log = logs.logger("kafka")
_librdkafka = logging.getLogger("gatelog.librdkafka")
_librdkafka.addHandler(logging.NullHandler())  # its lines repeat what the error callback reports
_librdkafka.propagate = False

LEADERLESS: Final = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError._NOENT,  # of a question to partitions: "no leaders found"
    }
)
_UNREACHABLE: Final = LEADERLESS | frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.NOT_CONTROLLER,
    }
)
_AUTHENTICATION: Final = frozenset(
    {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL}
)


_reported: dict[str, float] = {}  # when, by name


def _report(error: KafkaError) -> None:
    """Log an error of a client, each kind now and then: while a broker is away, every client says so all the time."""
    now = time.monotonic()
    if error.fatal() or now - _reported.get(error.name(), -REPORT_INTERVAL_S) >= REPORT_INTERVAL_S:
        _reported[error.name()] = now
        _log.warning("kafka.error", error=error.name(), detail=error.str(), fatal=error.fatal())


def client_properties(properties: dict[str, str], **own: str | int | bool) -> dict[str, Any]:
    """Return the user's librdkafka properties with a client's own over them (``a_b`` is ``a.b``)."""
    return {
        "client.id": "gatelog",
        "reconnect.backoff.max.ms": RECONNECT_INTERVAL_MAX_MS,
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        **properties,
        **{name.replace("_", "."): value for name, value in own.items()},
        "error_cb": _report,
        "logger": _librdkafka,
    }


@contextmanager
def translated(properties: dict[str, str]) -> Iterator[None]:
    """Turn librdkafka's errors into gatelog's; unknown ones go through.

    Raises:
        KafkaUnavailableError: no answer in time.
        SettingsError: Kafka refused the credentials.
    """
    try:
        yield
    except KafkaException as error:
        cause = error.args[0]
        if not isinstance(cause, KafkaError):
            raise
        servers = properties.get("bootstrap.servers")
        if cause.code() in _AUTHENTICATION:
            raise SettingsError(f"Kafka at {servers} refused the credentials: {cause.str()}") from error
        if cause.code() in _UNREACHABLE:
            raise KafkaUnavailableError(
                f"Kafka at {servers} does not answer ({cause.name()}: {cause.str()}). "
                "Is it running? Local one: `gatelog status`."
            ) from error
        raise


def admin(properties: dict[str, str]) -> AdminClient:
    """Return an admin client. Keep a reference while its futures run: collecting it cancels them.

    Raises:
        SettingsError: librdkafka does not know a property, or its value.
    """
    with legal(properties):
        return AdminClient(client_properties(properties))


@contextmanager
def legal(properties: dict[str, str]) -> Iterator[None]:
    """Name a librdkafka property that is wrong.

    Raises:
        SettingsError: with librdkafka's own reason.
    """
    try:
        yield
    except KafkaException as error:
        raise SettingsError(f"A Kafka property is wrong: {error.args[0]}") from error


def patiently(ask: Callable[[float], T]) -> T:
    """Call ``ask``, with the seconds that it may take, again while Kafka cannot answer; blocks for about 10 s.

    Raises:
        KafkaUnavailableError: by ``ask``, until the end; other errors are raised at once.
    """
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            return ask(_ASK_S)
        except KafkaUnavailableError:
            if time.monotonic() + _AGAIN_S > deadline:
                raise
            time.sleep(_AGAIN_S)


def metadata_of(
    client: AdminClient | Consumer, properties: dict[str, str], topic: str | None = None
) -> dict[str, TopicMetadata]:
    """Return what Kafka says of every topic, or of one; blocks for about 10 s.

    Raises:
        KafkaUnavailableError: no answer in time.
        SettingsError: Kafka refused the credentials.
    """

    def once(timeout_s: float) -> dict[str, TopicMetadata]:
        with translated(properties):
            return client.list_topics(topic, timeout=timeout_s).topics

    try:
        return patiently(once)
    except KafkaUnavailableError:
        check_credentials(properties)
        raise


def check_credentials(properties: dict[str, str]) -> None:
    """Ask why nobody answers: librdkafka only reports that it was refused, and goes on trying. Blocks for a second.

    Raises:
        SettingsError: Kafka refused the credentials.
    """
    reported: list[KafkaError] = []
    own = client_properties(properties)
    own["error_cb"] = reported.append
    client = AdminClient(own)
    with suppress(KafkaException):
        client.list_topics(timeout=_ASK_S)
    client.poll(0)
    for error in reported:
        if error.code() in _AUTHENTICATION:
            raise SettingsError(f"Kafka refused the credentials: {error.str()}")


def partitions_of(client: AdminClient | Consumer, properties: dict[str, str]) -> dict[str, int]:
    """Return every topic with its number of partitions; blocks for about 10 s.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return {name: len(topic.partitions) for name, topic in metadata_of(client, properties).items()}


def leaderless(client: AdminClient | Consumer, properties: dict[str, str], store: str) -> set[tuple[str, int]]:
    """Return the partitions of a store's topics that no broker leads now; blocks for about 10 s.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return {
        (name, number)
        for name, topic in metadata_of(client, properties).items()
        for number, partition in topic.partitions.items()
        if partition.leader < 0 and name.startswith(topic_of(store, ""))
    }


def named(partitions: Iterable[tuple[str, int]]) -> str:
    """Name one, and count the others: there may be thousands."""
    (topic, partition), *others = sorted(partitions)
    more = f" and {len(others)} other partitions" if others else ""
    return f"topic {topic!r} partition {partition}{more}"


def topics_of(client: AdminClient | Consumer, properties: dict[str, str], store: str) -> dict[str, int]:
    """Return the topics of a store with their numbers of partitions; blocks for about 10 s.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    prefix = topic_of(store, "")
    return {name: count for name, count in partitions_of(client, properties).items() if name.startswith(prefix)}


def broker_setting(properties: dict[str, str], name: str) -> str | None:
    """Return a setting of one of the brokers; None where Kafka does not tell. Blocks."""
    client = admin(properties)
    try:
        broker = str(min(client.list_topics(timeout=REQUEST_TIMEOUT_S).brokers))
        asked = [ConfigResource(ResourceType.BROKER, broker)]
        (answer,) = client.describe_configs(asked, request_timeout=REQUEST_TIMEOUT_S).values()
        return str(answer.result()[name].value)
    except (KafkaException, KeyError):  # it is for a message only
        return None


def looking(properties: dict[str, str], group: str) -> Consumer:
    """Return a consumer for looks at single records: it fetches little, soon, and joins and commits nothing.

    Raises:
        SettingsError: librdkafka does not know a property, or its value.
    """
    own = client_properties(
        properties,
        group_id=group,
        enable_auto_commit=False,
        enable_partition_eof=True,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_message_max_bytes=_LOOK_BYTES,
        queued_min_messages=1,
        fetch_wait_max_ms=10,
        fetch_queue_backoff_ms=0,
    )
    with legal(properties):
        return Consumer(own)


def poll(consumer: Consumer, properties: dict[str, str], wait_s: float, records_max: int) -> list[Message]:
    """Wait up to ``wait_s`` for a record, then take what else is there. (``consume`` waits for a full batch.)

    A pattern that fits no topic yet is no error.

    Raises:
        KafkaUnavailableError: no answer in time.
        LogMismatchError: the next record is gone, and the consumer was told not to jump (``auto.offset.reset``); or
            a topic is.
    """
    first = consumer.poll(wait_s)
    if first is None:
        return []
    found = [first, *consumer.consume(records_max - 1, timeout=0)]
    return [message for message in found if is_record(message, properties)]


def is_record(message: Message, properties: dict[str, str]) -> bool:
    """Say whether a message is a record, and not an error that passes; other errors are raised as by ``poll``."""
    error = message.error()
    if error is None:
        return True
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART and (message.topic() or "^").startswith("^"):
        return False
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise LogMismatchError(
            f"Topic {message.topic()!r} partition {message.partition()}: the next record to read is gone from "
            f"Kafka ({error.str()}). Retention removed it, or the topic was re-created. Nothing was skipped."
        )
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise LogMismatchError(
            f"Topic {message.topic()!r} is gone from Kafka while it was read. Nothing was skipped. "
            "`gatelog republish` makes it anew."
        )
    with translated(properties):
        raise KafkaException(error)
