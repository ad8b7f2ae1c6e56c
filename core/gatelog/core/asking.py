"""Where partitions begin and end, where a time is, of which topics: the one way of asking Kafka. Blocks.

What passes is waited out for some seconds: leaders that move, brokers that restart, topics that were just made.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Final, NamedTuple, NoReturn, TypeAlias

from confluent_kafka import (
    OFFSET_INVALID,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec, TopicDescription  # type: ignore[attr-defined] # public, not in __all__

from gatelog.core import kafka
from gatelog.core.errors import KafkaUnavailableError

Place: TypeAlias = tuple[str, int]  # topic, partition


class End(NamedTuple):
    """Where a partition ended, under which leader, and of which topic: an offset alone is of no certain history.

    ``topic``: the id that Kafka gave the topic when it was made; one that is made again has the name, and another id.
    ``position``: of the last record before it, where the relay knows it; else 0.
    """

    offset: int
    epoch: int | None
    topic: str | None = None
    position: int = 0


BEGIN: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call] # annotated incompletely
END: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call] # annotated incompletely

# What brokers say of a partition whose topic they do not know yet: here, it was just seen to exist.
_UNKNOWN: Final = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
)


def begins(properties: dict[str, str], places: Iterable[Place]) -> dict[Place, int]:
    """Return the first offset of each partition that still has its record.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return ask(properties, dict.fromkeys(places, BEGIN))


def ends(properties: dict[str, str], places: Iterable[Place], *, committed: bool = False) -> dict[Place, int]:
    """Return the next offset of each partition; with ``committed``, the one that consumers can read up to.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return ask(properties, dict.fromkeys(places, END), committed=committed)


def stands(properties: dict[str, str], places: Iterable[Place]) -> dict[Place, End]:
    """Return the end of each partition, with the epoch of the leader that named it, and the id of its topic.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    found = _ask(properties, dict.fromkeys(places, END), committed=False)
    topics = ids(properties, {topic for topic, _ in found})
    return {place: end._replace(topic=topics.get(place[0])) for place, end in found.items()}


def ids(properties: dict[str, str], topics: Iterable[str]) -> dict[str, str]:
    """Return the ids that Kafka gave topics when they were made, without topics that are gone.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    names = sorted(set(topics))

    def once(timeout_s: float) -> dict[str, str]:
        client = kafka.admin(properties)
        with kafka.translated(properties):
            asked = client.describe_topics(TopicCollection(names), request_timeout=timeout_s)
            found = {name: _if_there(future) for name, future in asked.items()}
        return {name: str(topic.topic_id) for name, topic in found.items() if topic is not None}

    return kafka.patiently(once) if names else {}


def made_again(properties: dict[str, str], known: Mapping[str, str]) -> list[str]:
    """Return those of some topics that have other ids than these: a client that has met them must not be used again.

    The epochs of leaders begin anew there: librdkafka takes what brokers say for old news, and waits for ever.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    now = ids(properties, known)
    return [topic for topic, its_id in known.items() if now.get(topic, its_id) != its_id]


def _if_there(future: Future[TopicDescription]) -> TopicDescription | None:
    try:
        return future.result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def ask(
    properties: dict[str, str], asked: Mapping[Place, OffsetSpec], *, committed: bool = False
) -> dict[Place, int]:
    """Return an offset of each partition; -1 where there is none for a time.

    Raises:
        KafkaUnavailableError: no answer in time.
        SettingsError: Kafka refused the credentials.
    """
    return {place: end.offset for place, end in _ask(properties, asked, committed=committed).items()}


def _ask(properties: dict[str, str], asked: Mapping[Place, OffsetSpec], *, committed: bool) -> dict[Place, End]:
    found: dict[Place, End] = {}

    def once(timeout_s: float) -> None:
        missing = {TopicPartition(*place): spec for place, spec in asked.items() if place not in found}
        if missing:
            _ask_once(properties, missing, found, committed=committed, timeout_s=timeout_s)

    kafka.patiently(once)
    return found


def _ask_once(
    properties: dict[str, str],
    missing: dict[TopicPartition, OffsetSpec],
    found: dict[Place, End],
    *,
    committed: bool,
    timeout_s: float,
) -> None:
    """Add to ``found``, and raise the first error; each time with a new client, which believes nothing of leaders."""
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    admin = kafka.admin(properties)
    problem: KafkaException | None = None
    futures = admin.list_offsets(missing, isolation_level=level, request_timeout=timeout_s)
    for place, future in futures.items():
        try:
            answer = future.result()
        except KafkaException as error:
            problem = problem or error
        else:
            if answer.offset != OFFSET_INVALID:  # so librdkafka says that the leader did not answer: it is no error
                found[place.topic, place.partition] = End(answer.offset, answer.leader_epoch)
    if unanswered := {(place.topic, place.partition) for place in missing} - found.keys():
        _raise(properties, unanswered, problem)


def _raise(properties: dict[str, str], unanswered: set[Place], problem: KafkaException | None) -> NoReturn:
    servers, named = properties.get("bootstrap.servers"), kafka.named(unanswered)
    if problem is None:
        raise KafkaUnavailableError(f"Kafka at {servers}: {named}: the broker that leads this does not answer.")
    cause = problem.args[0]
    if cause.code() in _UNKNOWN or cause.code() in kafka.LEADERLESS:
        raise KafkaUnavailableError(
            f"Kafka at {servers}: {named}: no broker leads this ({cause.name()}). The "
            "brokers that hold it are down or starting, or the topic is gone."
        ) from problem
    with kafka.translated(properties):
        raise problem
