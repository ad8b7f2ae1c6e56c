"""What Kafka holds is compared with what it was seen to hold: at every check, and after a start.

After a start, what comes after the last check decides whether the pending tick was committed. Blocks: call it off the
event loop; ``look`` after the publisher has fenced and settled what came before.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Message

from gatelog.core import histories, tail
from gatelog.core.errors import LogMismatchError, UndecodableRecordError
from gatelog.core.tail import Ends
from gatelog.schemas.envelope import parse_record


@dataclass(frozen=True, slots=True)
class Found:
    """What Kafka holds: the highest position, and the ends at which it does."""

    position: int
    ends: Ends


def compared(properties: dict[str, str], topics: Mapping[str, int], seen: Ends) -> Ends:
    """Return the ends of now, behind which is all that was before those ``seen``.

    Raises:
        LogMismatchError: a partition has lost its end, whether it has grown again since or not.
        KafkaUnavailableError: no answer in time.
    """
    ends = tail.stands_of(properties, topics)
    if lost := histories.differences(properties, histories.flat(seen), histories.flat(ends)):
        raise LogMismatchError(
            f"{'. '.join(lost.values())}. The topic was truncated, deleted or restored from an older copy, brokers "
            "have lost its end (an unclean election), or this is another Kafka cluster. Nothing was changed. "
            "`gatelog republish` writes again what is missing."
        )
    return ends


def look(
    properties: dict[str, str], source: str, topics: Mapping[str, int], checked: Ends, checked_position: int
) -> Found:
    """Read every record past ``checked`` and return the highest position of this store.

    Raises:
        LogMismatchError: Kafka lost what was before ``checked``, or positions do not continue from it one by one.
        KafkaUnavailableError: no answer in time.
    """
    ends = compared(properties, topics, checked)
    starts = {name: [*tail.offsets_of(checked).get(name, []), *[0] * count][:count] for name, count in topics.items()}
    positions = {
        position
        for messages in tail.messages(properties, starts, tail.offsets_of(ends))
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


def _position(message: Message, source: str) -> list[int]:
    """What others wrote, copies of ours included, is not for the relay to judge: readers report it."""
    try:
        return [parse_record(source, message.headers(), message.value()).position]
    except UndecodableRecordError:
        return []
