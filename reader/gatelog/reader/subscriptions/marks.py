"""Where a group stands in a partition: an offset in Kafka, and the position that belongs to it. Pure.

The group commits both: the position goes into the metadata of the committed offset. So what was handled is known even
when Kafka has forgotten it, and can be looked up in the index; and it is fenced, shared out and taken over with the
partition, as the offset is.

An event from the index has no offset. It stands before all offsets, in the order of positions: at a negative number
that ``before_kafka`` makes of its position. Whoever keeps order by offsets need not know.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from confluent_kafka import TopicPartition

from gatelog.core import histories
from gatelog.reader.subscriptions.merge import Place

_BASE: Final = -(2**62)
_OURS: Final = "gatelog"  # the first word of what we commit beside an offset
UNKNOWN_OFFSET: Final = -1  # where to go on in Kafka is not known: the index is read first


class Mark(NamedTuple):
    """The next offset to read, and the position up to which all of the partition is handled (None: not known).

    ``epoch``: that of the newest record that was read with what stands before the offset, of one history.
    ``topic``: the id of the topic that the offset is of. None: not known.
    ``settled``: the offset of the parked topic from which on it counts what was said to be settled. None: whoever
    reads on here decides it, for the group begins, or others have set its offset.
    ``waits``: the group begins at a time, and nothing of that time or later stands before the offset.
    """

    offset: int
    position: int | None = None
    epoch: int | None = None
    topic: str | None = None
    settled: int | None = None
    waits: bool = False


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
    facts = {"position": mark.position, "topic": mark.topic, "settled": mark.settled, "waits": mark.waits or None}
    return " ".join([_OURS, *(f"{name}={fact}" for name, fact in facts.items() if fact is not None)])


def kafka_starts(marks: Marks) -> list[TopicPartition]:
    """Return marks as the client is told where to begin: with an epoch, it asks whether the offset is still that."""
    return [histories.resume(place, mark.offset, mark.epoch) for place, mark in marks.items()]


def marks_of(committed: Iterable[TopicPartition]) -> dict[Place, Mark]:
    """Return what was committed, without partitions that have no offset. What others commit has no position."""
    return {(each.topic, each.partition): _mark(each) for each in committed if each.offset >= 0}


def _mark(committed: TopicPartition) -> Mark:
    ours, *words = (committed.metadata or "").split(" ")
    facts = dict(word.partition("=")[::2] for word in words) if ours == _OURS else {}
    position, settled = _number(facts.get("position")), _number(facts.get("settled"))
    return Mark(
        committed.offset, position, committed.leader_epoch, facts.get("topic") or None, settled, "waits" in facts
    )


def _number(digits: str | None) -> int | None:
    return int(digits) if digits and digits.isascii() and digits.isdigit() else None


class Trail:
    """Says which position belongs to an offset of one partition, while it is ours."""

    __slots__ = ("_begin", "_chunks", "_first", "_position", "_topic", "epoch", "reached")

    def __init__(self, begin: Mark, now: Mark | None = None) -> None:
        """Begin where the group stands. ``now``: where that is in Kafka now, if it is not the same."""
        self._begin = begin
        self.epoch = (now or begin).epoch  # of the newest record that was read, which those before are with
        self._topic = (now or begin).topic
        self._first: int | None = None  # where the first event stands of the time that is waited for
        self.reached = begin.position  # what was read, or was handled before; None: not known
        self._position = begin.position  # of what is before all chunks
        self._chunks: deque[tuple[Sequence[int], Sequence[int]]] = deque()  # offsets, positions

    @property
    def waits(self) -> bool:
        """Whether all that was read is of an earlier time than the one at which the group begins."""
        return self._begin.waits and self._first is None

    def met(self, offset: int) -> None:
        """The first event of that time, or later, stands here."""
        self._first = offset

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
            position, begin = offset - _BASE - 1, self._begin._replace(waits=self._waits_before(offset))
            return begin if position < 0 else begin._replace(position=position)
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
        waits = self._waits_before(offset)
        return self._begin._replace(
            offset=offset, position=position, epoch=self.epoch, topic=self._topic, waits=waits
        )

    def _waits_before(self, offset: int) -> bool:
        return self._begin.waits and (self._first is None or offset <= self._first)
