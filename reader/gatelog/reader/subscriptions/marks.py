"""Where a group stands in a partition: an offset in Kafka, and the position that belongs to it. Pure.

The group commits both: the position goes into the metadata of the committed offset. So what was handled is known even
when Kafka has forgotten it, and can be looked up in the index; and it is fenced, shared out and taken over with the
partition, as the offset is.

An event from the index has no offset. It stands before all offsets, in the order of positions: at a negative number
that ``before_kafka`` makes of its position. Whoever keeps order by offsets need not know.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from confluent_kafka import TopicPartition

from gatelog.core import histories
from gatelog.reader.subscriptions.merge import Place

_BASE: Final = -(2**62)
_METADATA: Final = re.compile(r"gatelog position=(\d+)(?: topic=(\S+))?", re.ASCII)
UNKNOWN_OFFSET: Final = -1  # where to go on in Kafka is not known: the index is read first


class Mark(NamedTuple):
    """The next offset to read, and the position up to which all of the partition is handled (None: not known).

    ``epoch``: that of the newest record that was read with what stands before the offset, of one history.
    ``topic``: the id of the topic that the offset is of. None: not known.
    """

    offset: int
    position: int | None = None
    epoch: int | None = None
    topic: str | None = None


Marks: TypeAlias = Mapping[Place, Mark]


def before_kafka(position: int) -> int:
    """Return where an event of the index stands."""
    return _BASE + position


def begins_before_kafka(position: int | None) -> int:
    """Return where the first event after a position stands; or one of which nothing is known yet."""
    return _BASE if position is None else _BASE + position + 1


def is_before_kafka(offset: int) -> bool:
    """Say whether an event that stands here came from the index."""
    return offset < 0


def kafka_marks(marks: Marks) -> list[TopicPartition]:
    """Return marks as the client commits them."""
    return [histories.resume(place, mark.offset, mark.epoch, _metadata(mark)) for place, mark in marks.items()]


def _metadata(mark: Mark) -> str:
    if mark.position is None:
        return ""
    return f"gatelog position={mark.position}" + (f" topic={mark.topic}" if mark.topic else "")


def kafka_starts(marks: Marks) -> list[TopicPartition]:
    """Return marks as the client is told where to begin: with an epoch, it asks whether the offset is still that."""
    return [histories.resume(place, mark.offset, mark.epoch) for place, mark in marks.items()]


def marks_of(committed: Iterable[TopicPartition]) -> dict[Place, Mark]:
    """Return what was committed, without partitions that have no offset. What others commit has no position."""
    return {(each.topic, each.partition): _mark(each) for each in committed if each.offset >= 0}


def _mark(committed: TopicPartition) -> Mark:
    found = _METADATA.fullmatch(committed.metadata or "")
    position, topic = (int(found[1]), found[2]) if found else (None, None)
    return Mark(committed.offset, position, committed.leader_epoch, topic)


class Trail:
    """Says which position belongs to an offset of one partition, while it is ours."""

    __slots__ = ("_begin", "_chunks", "_position", "_topic", "epoch", "reached")

    def __init__(self, begin: Mark, now: Mark | None = None) -> None:
        """Begin where the group stands. ``now``: where that is in Kafka now, if it is not the same."""
        self._begin = begin
        _, _, self.epoch, self._topic = (
            now or begin
        )  # of the newest record that was read, which those before are with
        self.reached = begin.position  # what was read, or was handled before; None: not known
        self._position = begin.position  # of what is before all chunks
        self._chunks: deque[tuple[Sequence[int], Sequence[int]]] = deque()  # offsets, positions

    def took(self, offsets: Sequence[int], positions: Sequence[int], next_offset: int, reached: int) -> None:
        """Take note of events from Kafka, in order; of other records before ``next_offset``, none is of interest."""
        self.reached = reached = max(reached, self.reached or 0)
        if not offsets or offsets[-1] < next_offset - 1:
            offsets, positions = [*offsets, next_offset - 1], [*positions, reached]
        self._chunks.append((offsets, positions))

    def told(self, position: int) -> None:
        """The index has told everything up to a position; what Kafka has comes after it."""
        self._position = max(self._position or 0, position)
        self.reached = max(self.reached or 0, position)

    def mark(self, offset: int) -> Mark:
        """Return what to commit when everything before ``offset`` is handled. Offsets rise from call to call."""
        if is_before_kafka(offset):
            position = offset - _BASE - 1
            return self._begin if position < 0 else self._begin._replace(position=position)
        chunks = self._chunks
        while chunks and chunks[0][0][-1] < offset:
            self._position = max(self._position or 0, chunks.popleft()[1][-1])
        if not chunks:
            return self._mark(offset, self._position)
        offsets, positions = chunks[0]
        nth = bisect_left(offsets, offset)
        if nth > 0:
            return self._mark(offset, positions[nth - 1])
        return self._mark(offset, positions[0] - 1 if self._position is None else self._position)

    def _mark(self, offset: int, position: int | None) -> Mark:
        return Mark(offset, position, self.epoch, self._topic)
