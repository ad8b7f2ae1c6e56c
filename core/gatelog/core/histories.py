"""Whether offsets are still of the history that they were seen in: an offset counts only with what stood before it.

Kafka's identity of what a log holds is the leader epoch (KIP-320): a leader only appends, and each has a higher epoch
than all before it. A log that lost its end in an unclean election tells so for ever, however long it has grown since.
All but ``resume`` blocks: call it off the event loop.
"""

import time
from collections.abc import Mapping
from typing import Final, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from gatelog.core import kafka, tail
from gatelog.core.errors import KafkaUnavailableError
from gatelog.core.tail import End, Ends

Place: TypeAlias = tuple[str, int]  # topic, partition

_POLL_S: Final = 0.1
_UNKNOWN: Final = -1


def differences(properties: dict[str, str], seen: Ends, ends: Ends) -> list[str]:
    """Name the partitions that do not hold any more what they held before the ends ``seen``; ``ends``: those of now.

    Only partitions with another leader than then are looked at more closely.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    pairs = {
        (topic, p): (was, now)
        for topic, each in seen.items()
        for p, was in enumerate(each)
        for now in (ends.get(topic, [])[p : p + 1] or [End(0, None)])
    }
    short = {place: (was, now) for place, (was, now) in pairs.items() if was.offset > now.offset}
    doubtful = {
        place: was
        for place, (was, now) in pairs.items()
        if place not in short and was.offset and was.epoch != now.epoch
    }
    others = sorted(other_histories(properties, doubtful))
    return [
        f"Topic {topic!r} partition {p} ends at offset {now.offset:,}, but it was seen to reach {was.offset:,}"
        for (topic, p), (was, now) in short.items()
    ] + [
        f"Topic {topic!r} partition {p} has lost what it held before offset {pairs[topic, p][0].offset:,}, and has "
        f"grown again since, to {pairs[topic, p][1].offset:,}"
        for topic, p in others
    ]


def other_histories(properties: dict[str, str], seen: Mapping[Place, End]) -> set[Place]:
    """Return the partitions whose log was cut before the end that was seen. One without an epoch cannot be told.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    waiting = {place for place, end in seen.items() if end.epoch is not None}
    lost: set[Place] = set()
    if not waiting:
        return lost
    own = kafka.client_properties(
        properties,
        group_id="gatelog-recovery",  # never committed to
        enable_auto_commit=False,
        enable_partition_eof=True,  # any answer will do: it comes after the epoch was asked for
        auto_offset_reset="error",
        isolation_level="read_uncommitted",
        fetch_wait_max_ms=50,
        fetch_message_max_bytes=1,  # one batch: it is not read
        queued_min_messages=1,
    )
    consumer = Consumer(own)
    try:
        consumer.assign([resume(place, *seen[place]) for place in waiting])
        deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
        while waiting:
            message = consumer.poll(_POLL_S)
            if message is not None:
                error, place = message.error(), (message.topic() or "", message.partition() or 0)
                if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
                    lost.add(place)
                elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                    with kafka.translated(properties):
                        raise KafkaException(error)
                waiting.discard(place)
            elif time.monotonic() > deadline:
                raise KafkaUnavailableError(f"Kafka did not say in time whether {len(waiting)} partitions are whole.")
    finally:
        consumer.close()
    return {place for place in lost if not _is_forgotten(properties, place, seen[place].offset)}


def _is_forgotten(properties: dict[str, str], place: Place, offset: int) -> bool:
    """Say whether retention has removed what stood at an offset: the client calls that and a lost end the same."""
    topic, partition = place
    begin: int = tail.begins_of(properties, {topic: partition + 1})[topic][partition]
    return offset < begin


def resume(place: Place, offset: int, epoch: int | None, metadata: str = "") -> TopicPartition:
    """Return where to go on, as a consumer is told: with an epoch it asks first whether the offset is still that."""
    return TopicPartition(*place, offset, metadata, _UNKNOWN if epoch is None else epoch)


def epoch_of(message: Message | None) -> int | None:
    """Return the epoch of the leader that wrote a record; None: not known."""
    epoch = None if message is None else message.leader_epoch()
    return None if epoch == _UNKNOWN else epoch
