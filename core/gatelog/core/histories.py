"""Whether offsets are still of the history that they were seen in: an offset counts only with what stood before it.

Kafka's identity of what a log holds is the topic's id and the leader epoch (KIP-320). A leader only appends, and each
has a higher epoch than all before it: a log that lost its end in an unclean election tells so for ever, even when it
has grown since. A topic that was deleted and made again has another id.
All but ``resume`` blocks: call it off the event loop.
"""

import time
from collections.abc import Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from gatelog.core import asking, kafka
from gatelog.core.asking import End, Place
from gatelog.core.errors import KafkaUnavailableError
from gatelog.core.tail import Ends

_POLL_S: Final = 0.1
_UNKNOWN: Final = -1


def flat(ends: Ends) -> dict[Place, End]:
    """Return ends by partition."""
    return {(topic, p): end for topic, each in ends.items() for p, end in enumerate(each)}


def differences(properties: dict[str, str], seen: Mapping[Place, End], now: Mapping[Place, End]) -> dict[Place, str]:
    """Return the partitions that do not hold any more what they held before the ends ``seen``, and why.

    ``now``: where they end; one that is not there ends at 0. Only partitions with another leader than then are looked
    at more closely.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    pairs = {place: (was, now.get(place, End(0, None))) for place, was in seen.items() if was.offset > 0}
    anew = {place for place, (was, end) in pairs.items() if was.topic and end.topic and was.topic != end.topic}
    short = {place for place, (was, end) in pairs.items() if was.offset > end.offset} - anew
    doubtful = {place: was for place, (was, end) in pairs.items() if was.epoch != end.epoch}
    cut = _other_histories(properties, {place: was for place, was in doubtful.items() if place not in anew | short})
    why = dict.fromkeys(
        cut, "has lost what it held before offset {0.offset:,}, and has grown again since, to {1.offset:,}"
    )
    why |= dict.fromkeys(short, "ends at offset {1.offset:,}, but it was seen to reach {0.offset:,}")
    why |= dict.fromkeys(
        anew, "is of a topic that was deleted and made again: its id was {0.topic}, and is {1.topic} now"
    )
    return {
        (topic, p): f"Topic {topic!r} partition {p} {why[topic, p].format(*pairs[topic, p])}"
        for topic, p in sorted(why)
    }


def _other_histories(properties: dict[str, str], seen: Mapping[Place, End]) -> set[Place]:
    """Return the partitions whose log was cut before the end that was seen. One without an epoch cannot be told.

    The client asks Kafka only when it learns who leads after it was told where to begin: so here, in a new one, and
    whenever a leader changes under a consumer; not when a group gives a member partitions.
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
        fetch_message_max_bytes=16 * 1024,  # not read; with less, one partition is answered at a time
        queued_min_messages=1,
    )
    consumer = Consumer(own)
    try:
        consumer.assign([resume(place, seen[place].offset, seen[place].epoch) for place in waiting])
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
                if place in waiting:  # the others' answers are not to queue up behind more of its records
                    waiting.discard(place)
                    deadline = time.monotonic() + kafka.REQUEST_TIMEOUT_S
                    consumer.incremental_unassign([TopicPartition(*place)])
            elif time.monotonic() > deadline:
                raise KafkaUnavailableError(f"Kafka did not say in time whether {len(waiting)} partitions are whole.")
    finally:
        consumer.close()
    return {place for place in lost if not _is_forgotten(properties, place, seen[place].offset)}


def _is_forgotten(properties: dict[str, str], place: Place, offset: int) -> bool:
    """Say whether retention has removed what stood at an offset: the client calls that and a lost end the same."""
    return offset < asking.begins(properties, [place])[place]


def resume(place: Place, offset: int, epoch: int | None, metadata: str = "") -> TopicPartition:
    """Return where to go on, as a consumer is told: with an epoch it asks first whether the offset is still that."""
    return TopicPartition(*place, offset, metadata, _UNKNOWN if epoch is None else epoch)


def epoch_of(message: Message | None) -> int | None:
    """Return the epoch of the leader that wrote a record; None: not known."""
    epoch = None if message is None else message.leader_epoch()
    return None if epoch == _UNKNOWN else epoch
