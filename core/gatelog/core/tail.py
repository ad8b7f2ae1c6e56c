"""What Kafka holds between given offsets and its ends. All but ``stream`` blocks: call it off the event loop."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from gatelog.core import asking, kafka, services
from gatelog.core.asking import End
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError

T = TypeVar("T")
Offsets = dict[str, list[int]]  # {"topic": [next offset of partition 0, of partition 1, …]}
Ends = dict[str, list[End]]  # {"topic": [end of partition 0, of partition 1, …]}
RecordPlace = tuple[str, int, int]  # topic, partition, offset
_CHUNK_RECORDS = 5_000


def ends_from_json(text: str) -> Ends:
    """Return what ``ends_as_json`` made."""
    return {name: [End(*end) for end in each] for name, each in json.loads(text).items()}


def ends_as_json(ends: Ends) -> str:
    """Return ends as they are stored: {"topic": [[next offset, epoch, topic id, position], …]}."""
    return json.dumps(ends)


def with_positions(ends: Ends, last: Mapping[asking.Place, int]) -> Ends:
    """Return ends with the positions of the last records before them, where these are known."""
    return {
        topic: [end._replace(position=last.get((topic, p), end.position)) for p, end in enumerate(each)]
        for topic, each in ends.items()
    }


def offsets_of(ends: Ends) -> Offsets:
    """Return the offsets alone."""
    return {name: [end.offset for end in each] for name, each in ends.items()}


def stands_of(properties: dict[str, str], topics: Mapping[str, int]) -> Ends:
    """Return the end of every partition, with the epoch of the leader that named it.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return _of_topics(topics, asking.stands(properties, _places(topics)))


def ends_of(properties: dict[str, str], topics: Mapping[str, int]) -> Offsets:
    """Return the next offset of every partition.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return _of_topics(topics, asking.ends(properties, _places(topics)))


def begins_of(properties: dict[str, str], topics: Mapping[str, int]) -> Offsets:
    """Return the first offset of every partition that still has its record.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return _of_topics(topics, asking.begins(properties, _places(topics)))


def _places(topics: Mapping[str, int]) -> list[asking.Place]:
    return [(name, partition) for name, count in topics.items() for partition in range(count)]


def _of_topics(topics: Mapping[str, int], found: Mapping[asking.Place, T]) -> dict[str, list[T]]:
    return {name: [found[name, partition] for partition in range(count)] for name, count in topics.items()}


def place_of(message: Message) -> RecordPlace:
    """Return where a record is."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return topic, partition, offset


def messages(properties: dict[str, str], starts: Offsets, ends: Offsets) -> Generator[list[Message], None, None]:
    """Yield every committed record from ``starts`` to ``ends``, some thousand at a time.

    Raises:
        LogMismatchError: the record at one of ``starts`` is gone.
        KafkaUnavailableError: no answer in time.
    """
    missing = {
        (topic, p): ends[topic][p]
        for topic, own in starts.items()
        for p, start in enumerate(own)
        if start < ends[topic][p]
    }
    if not missing:
        return
    own = kafka.client_properties(
        properties,
        group_id="gatelog-recovery",  # never committed to
        enable_auto_commit=False,
        fetch_wait_max_ms=50,  # an end is said to be one after so long
        enable_partition_eof=True,  # the last offset may be a marker: only this tells the end
        auto_offset_reset="error",  # a missing record is named, never jumped over
        isolation_level="read_committed",
    )
    consumer = Consumer(own)
    try:
        consumer.assign([TopicPartition(topic, p, starts[topic][p]) for topic, p in missing])
        while missing:
            yield _chunk(consumer, missing, properties)
    finally:
        consumer.close()


async def stream(properties: dict[str, str], starts: Offsets, ends: Offsets) -> AsyncGenerator[list[Message], None]:
    """Yield what ``messages`` yields, without blocking; close it with ``aclosing``.

    Raises:
        LogMismatchError: the record at one of ``starts`` is gone.
        KafkaUnavailableError: no answer in time.
    """
    chunks = messages(properties, starts, ends)
    step: asyncio.Future[list[Message] | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, chunks, None))
            if (chunk := await asyncio.shield(step)) is None:
                return
            yield chunk
    finally:
        await services.ended(step)  # whatever happens: the consumer is in that thread's hands until it is through
        await asyncio.to_thread(chunks.close)


def _chunk(consumer: Consumer, missing: dict[tuple[str, int], int], properties: dict[str, str]) -> list[Message]:
    """Return what is there (``consume`` alone would wait for a full batch), and take off what has come to its end.

    An end before the offset in ``missing`` is none: a transaction of somebody else that is still open hides what was
    committed after it, and a replica that has just begun to lead may not know yet how far it may let read.
    """
    with kafka.translated(properties):
        first = consumer.poll(kafka.REQUEST_TIMEOUT_S)
        if first is None:
            raise KafkaUnavailableError(
                f"Kafka did not deliver within {kafka.REQUEST_TIMEOUT_S:g} s what it holds of "
                f"{kafka.named(missing)}. Nothing can be told before that. If brokers are well, somebody else has a "
                "transaction open there: nothing that follows it can be read until it ends."
            )
        records = []
        for message in [first, *consumer.consume(_CHUNK_RECORDS - 1, timeout=0)]:
            error = message.error()
            if error is None:
                records.append(message)
                _take_off(missing, message, 1)  # where somebody writes all the time, an end is never said to be one
            elif error.code() == KafkaError._PARTITION_EOF:
                _take_off(missing, message)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise LogMismatchError(
                    f"Topic {message.topic()!r} partition {message.partition()}: records that were not "
                    f"read yet are gone from Kafka ({error.str()}). Nothing was changed."
                )
            else:
                raise KafkaException(error)
        return records


def _take_off(missing: dict[tuple[str, int], int], seen: Message, length: int = 0) -> None:
    topic, partition, offset = place_of(seen)
    if offset + length >= missing.get((topic, partition), 0):
        missing.pop((topic, partition), None)
