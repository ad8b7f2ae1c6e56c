"""What Kafka holds between given offsets and its ends. Blocks: call it off the event loop."""

from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined] # public, but not in its __all__

from gatelog.core import kafka
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError

Offsets = dict[str, list[int]]  # {"topic": [next offset of partition 0, of partition 1, …]}
_CHUNK_RECORDS = 5_000


def ends_of(properties: dict[str, str], topics: Mapping[str, int]) -> Offsets:
    """Return the next offset of every partition.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return _offsets(properties, topics, OffsetSpec.latest())  # type: ignore[no-untyped-call] # annotated incompletely


def begins_of(properties: dict[str, str], topics: Mapping[str, int]) -> Offsets:
    """Return the first offset of every partition that still has its record.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return _offsets(properties, topics, OffsetSpec.earliest())  # type: ignore[no-untyped-call] # annotated incompletely


def _offsets(properties: dict[str, str], topics: Mapping[str, int], which: OffsetSpec) -> Offsets:
    asked = {TopicPartition(name, p): which for name, count in topics.items() for p in range(count)}
    found: Offsets = {name: [0] * count for name, count in topics.items()}
    if not asked:
        return found
    admin = kafka.admin(properties)
    with kafka.translated(properties):
        for partition, future in admin.list_offsets(asked, request_timeout=kafka.REQUEST_TIMEOUT_S).items():
            found[partition.topic][partition.partition] = future.result().offset
    return found


def messages(properties: dict[str, str], starts: Offsets, ends: Offsets) -> Iterator[list[Message]]:
    """Yield every committed record from ``starts`` to ``ends``, some thousand at a time.

    Raises:
        LogMismatchError: the record at one of ``starts`` is gone.
        KafkaUnavailableError: no answer in time.
    """
    behind = [
        TopicPartition(topic, p, start)
        for topic, offsets in starts.items()
        for p, start in enumerate(offsets)
        if start < ends[topic][p]
    ]
    if not behind:
        return
    own = kafka.client_properties(
        properties,
        group_id="gatelog-recovery",  # never committed to
        enable_auto_commit=False,
        enable_partition_eof=True,  # the last offset may be a marker: only this tells the end
        auto_offset_reset="error",  # a missing record is named, never jumped over
        isolation_level="read_committed",
    )
    consumer = Consumer(own)
    try:
        consumer.assign(behind)
        at_eof: set[tuple[str | None, int | None]] = set()
        while len(at_eof) < len(behind):
            yield _chunk(consumer, at_eof, properties)
    finally:
        consumer.close()


def _chunk(
    consumer: Consumer, at_eof: set[tuple[str | None, int | None]], properties: dict[str, str]
) -> list[Message]:
    """Return what is there; ``consume`` alone would wait for a full batch."""
    with kafka.translated(properties):
        first = consumer.poll(kafka.REQUEST_TIMEOUT_S)
        if first is None:
            raise KafkaUnavailableError(
                f"Kafka did not deliver what it says it has, within {kafka.REQUEST_TIMEOUT_S:g} s."
            )
        records = []
        for message in [first, *consumer.consume(_CHUNK_RECORDS - 1, timeout=0)]:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                at_eof.add((message.topic(), message.partition()))
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise LogMismatchError(
                    f"Topic {message.topic()!r} partition {message.partition()}: records that the relay has not "
                    f"checked are gone from Kafka ({error.str()}). Nothing was changed."
                )
            else:
                raise KafkaException(error)
        return records
