"""Where partitions begin and end, and where a time is in them: the one way of asking Kafka. Blocks.

What passes is waited out for some seconds: leaders that move, brokers that restart, topics that were just made.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined] # public, but not in its __all__

from gatelog.core import kafka
from gatelog.core.errors import KafkaUnavailableError

Place: TypeAlias = tuple[str, int]  # topic, partition


class End(NamedTuple):
    """Where a partition ended, and under which leader: an offset alone does not tell one history from another."""

    offset: int
    epoch: int | None


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
    """Return the end of each partition, with the epoch of the leader that named it.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return _ask(properties, dict.fromkeys(places, END), committed=False)


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
            found[place.topic, place.partition] = End(answer.offset, answer.leader_epoch)
        except KafkaException as error:
            problem = problem or error
    if problem is None:
        return
    cause = problem.args[0]
    if cause.code() in _UNKNOWN or cause.code() in kafka.LEADERLESS:
        named = kafka.named({(place.topic, place.partition) for place in missing} - found.keys())
        raise KafkaUnavailableError(
            f"Kafka at {properties.get('bootstrap.servers')}: {named}: no broker leads this ({cause.name()}). The "
            "brokers that hold it are down or starting, or the topic is gone."
        ) from problem
    with kafka.translated(properties):
        raise problem
