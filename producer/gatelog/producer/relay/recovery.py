"""After a start: what does Kafka hold past the last check? Decides whether the pending tick was committed.

Blocks: call it off the event loop, after the publisher has fenced and settled what came before.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from gatelog.core import tail
from gatelog.core.errors import LogMismatchError, UndecodableRecordError
from gatelog.core.tail import Offsets
from gatelog.schemas.envelope import parse_record


@dataclass(frozen=True, slots=True)
class Found:
    """What Kafka holds: the highest position, and the ends at which it does."""

    position: int
    ends: Offsets


def look(
    properties: dict[str, str], source: str, topics: Mapping[str, int], checked: Offsets, checked_position: int
) -> Found:
    """Read every record past ``checked`` and return the highest position of this store.

    Raises:
        LogMismatchError: Kafka ends before ``checked``, or positions do not continue from it one by one.
        KafkaUnavailableError: no answer in time.
    """
    ends = tail.ends_of(properties, topics)
    for short in shorter(checked, ends):
        raise LogMismatchError(
            f"{short}. The topic was truncated, deleted or restored from an older copy, or this is another Kafka "
            "cluster. Nothing was changed."
        )
    starts = {name: (checked.get(name, []) + [0] * count)[:count] for name, count in topics.items()}
    positions = {
        position
        for messages in tail.messages(properties, starts, ends)
        for message in messages
        for position in _position(message, source)
        if position > checked_position
    }
    if positions != set(range(checked_position + 1, checked_position + 1 + len(positions))):
        raise LogMismatchError(
            f"Kafka was checked to hold positions up to {checked_position:,}; past that it has {len(positions):,} "
            f"positions from {min(positions):,} to {max(positions):,}, which do not continue one by one. "
            "Is this the Kafka cluster, and the database, of this store? Nothing was changed."
        )
    return Found(checked_position + len(positions), ends)


def shorter(seen: Offsets, ends: Offsets) -> list[str]:
    """Name the partitions that end before an offset that they were seen to reach."""
    return [
        f"Topic {topic!r} partition {partition} ends at offset {end:,}, but it was seen to reach {offset:,}"
        for topic, offsets in seen.items()
        for partition, offset in enumerate(offsets)
        for end in (ends.get(topic, [])[partition : partition + 1] or [0])
        if offset > end
    ]


def _position(message: Message, source: str) -> list[int]:
    """What others wrote, copies of ours included, is not for the relay to judge: readers report it."""
    try:
        return [parse_record(source, message.headers(), message.value()).position]
    except UndecodableRecordError:
        return []
