"""After a start: what does Kafka hold past the last check? Decides whether the pending tick was committed.

Blocks: call it off the event loop, after the publisher has fenced and settled what came before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined] # public, but not in its __all__

from gatelog.core import kafka
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError, UndecodableRecordError
from gatelog.schemas.envelope import parse_record

Offsets = dict[str, list[int]]  # {"topic": [next offset of partition 0, of partition 1, …]}


@dataclass(frozen=True, slots=True)
class Found:
    """What Kafka holds: the highest position, and the ends at which it does."""

    position: int
    ends: Offsets


def ends_of(properties: dict[str, str], topics: Mapping[str, int]) -> Offsets:
    """Return the next offset of every partition.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client annotates it incompletely
    asked = {TopicPartition(name, p): latest for name, count in topics.items() for p in range(count)}
    ends: Offsets = {name: [0] * count for name, count in topics.items()}
    if not asked:
        return ends
    admin = kafka.admin(properties)
    with kafka.translated(properties):
        for partition, future in admin.list_offsets(asked, request_timeout=kafka.REQUEST_TIMEOUT_S).items():
            ends[partition.topic][partition.partition] = future.result().offset
    return ends


def look(
    properties: dict[str, str], source: str, topics: Mapping[str, int], checked: Offsets, checked_position: int
) -> Found:
    """Read every record past ``checked`` and return the highest position of this store.

    Raises:
        LogMismatchError: Kafka ends before ``checked``, or positions do not continue from it one by one.
        KafkaUnavailableError: no answer in time.
    """
    ends = ends_of(properties, topics)
    _refuse_shorter(checked, ends)
    starts = {name: (checked.get(name, []) + [0] * count)[:count] for name, count in topics.items()}
    positions = {p for p in _positions_past(properties, source, starts, ends) if p > checked_position}
    if positions != set(range(checked_position + 1, checked_position + 1 + len(positions))):
        raise LogMismatchError(
            f"Kafka was checked to hold positions up to {checked_position:,}; past that it has {len(positions):,} "
            f"positions from {min(positions):,} to {max(positions):,}, which do not continue one by one. "
            "Is this the Kafka cluster, and the database, of this store? Nothing was changed."
        )
    return Found(checked_position + len(positions), ends)


def _refuse_shorter(checked: Offsets, ends: Offsets) -> None:
    for topic, offsets in checked.items():
        for partition, offset in enumerate(offsets):
            end = ends.get(topic, [])[partition : partition + 1]
            if offset > (end[0] if end else 0):
                raise LogMismatchError(
                    f"Topic {topic!r} partition {partition} ends at offset {end[0] if end else 0:,}, but the relay "
                    f"has seen it reach {offset:,}. The topic was truncated, deleted or restored from an older "
                    "copy, or this is another Kafka cluster. Nothing was changed."
                )


def _positions_past(properties: dict[str, str], source: str, starts: Offsets, ends: Offsets) -> list[int]:
    """Read from ``starts`` to ``ends``. The last offset may be a marker: partition EOF tells the end."""
    behind = {
        (topic, p): start
        for topic, offsets in starts.items()
        for p, start in enumerate(offsets)
        if start < ends[topic][p]
    }
    if not behind:
        return []
    own = kafka.client_properties(
        properties,
        group_id="gatelog-recovery",  # never committed to
        enable_auto_commit=False,
        enable_partition_eof=True,
        isolation_level="read_committed",
    )
    consumer = Consumer(own)
    try:
        consumer.assign([TopicPartition(topic, p, start) for (topic, p), start in behind.items()])
        return _read_to_eof(consumer, source, {(topic, p): ends[topic][p] for topic, p in behind}, properties)
    finally:
        consumer.close()


def _read_to_eof(
    consumer: Consumer, source: str, missing: dict[tuple[str, int], int], properties: dict[str, str]
) -> list[int]:
    """Read until every partition has ended at the offset in ``missing``, or past it.

    An end before that is none: a transaction of somebody else that is still open hides what was committed after it,
    and a replica that has just begun to lead may not know yet how far it may let read.
    """
    positions: list[int] = []
    while missing:
        with kafka.translated(properties):
            message = consumer.poll(kafka.REQUEST_TIMEOUT_S)  # consume() would wait for a full batch
            if message is None:
                raise KafkaUnavailableError(
                    f"Kafka did not deliver within {kafka.REQUEST_TIMEOUT_S:g} s what it holds of {_named(missing)}. "
                    "What was published cannot be told before that. If brokers are well, somebody else has a "
                    "transaction open there: nothing that follows it can be read until it ends."
                )
            error = message.error()
            if error is None:
                positions.extend(_position(message, source))
            elif error.code() == KafkaError._PARTITION_EOF:
                topic, partition, offset = message.topic(), message.partition(), message.offset()
                assert topic is not None
                assert partition is not None
                assert offset is not None
                if offset >= missing.get((topic, partition), 0):
                    missing.pop((topic, partition), None)
            else:
                raise KafkaException(error)
    return positions


def _named(partitions: Iterable[tuple[str, int]]) -> str:
    """Name one, and count the others: there may be thousands."""
    (topic, partition), *others = sorted(partitions)
    more = f" and {len(others)} other partitions" if others else ""
    return f"topic {topic!r} partition {partition}{more}"


def _position(message: Message, source: str) -> list[int]:
    """What others wrote, copies of ours included, is not for the relay to judge: readers report it."""
    try:
        return [parse_record(source, message.headers(), message.value()).position]
    except UndecodableRecordError:
        return []
