"""Partitions and what was read from them: the words that the modules of a subscription share."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from confluent_kafka import TopicPartition

from gatelog.core.domain import topic_of
from gatelog.reader.subscriptions.events import KafkaEvent
from gatelog.reader.subscriptions.marks import Marks

if TYPE_CHECKING:
    from gatelog.reader.subscriptions.membership import Membership

Place: TypeAlias = tuple[str, int]  # topic, partition
Offsets: TypeAlias = Mapping[Place, int]  # the next offset to read, or the one after the last that is done


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, in order: ``events[i]`` stands at ``offsets[i]``.

    ``next_offset`` is that after the last record taken, those that were filtered or passed over included.
    ``size_bytes`` is what the events hold in memory, roughly. ``assignment`` tells one time that the partition was
    ours from another. ``epoch`` is that of the leader that wrote the last record; None: it came from elsewhere.
    ``reached`` is the highest position of the records taken. Who has not read up to position ``needs`` before has
    missed records, wherever they went.
    """

    place: Place
    assignment: int
    events: list[KafkaEvent]
    offsets: list[int]
    next_offset: int
    size_bytes: int
    epoch: int | None = None
    reached: int = 0
    needs: int = 0


@dataclass(frozen=True, slots=True)
class Joining:
    """What to join, and how much to hold. ``categories`` None: the whole store. ``types`` None: all event types."""

    group: str
    categories: tuple[str, ...] | None = None
    types: Collection[str] | None = None
    events_max: int = 10_000
    bytes_max: int = 64 * 1024 * 1024
    revoke_timeout_s: float = 10.0
    begins_again: bool = False  # when records are gone from Kafka: the owner knows where to find them

    def topics(self, store: str) -> list[str] | None:
        """Return the topics asked for, None for all of the store."""
        return None if self.categories is None else [topic_of(store, each) for each in self.categories]


class Owner(Protocol):
    """Who uses a membership, and is asked when partitions come and go. Called in the event loop, one at a time."""

    def bind(self, member: "Membership") -> None:
        """Take note of the membership that will ask; called once, first."""
        ...

    async def assigned(self, places: Sequence[Place]) -> Marks:
        """Return where to begin to read each of ``places``, which are ours from now on."""
        ...

    async def revoked(self, places: Sequence[Place]) -> Marks:
        """Finish or give up what is in hand of ``places``; return what to commit before they go to others."""
        ...

    async def lost(self, places: Sequence[Place]) -> None:
        """Give up ``places``: others may have them already, and nothing can be committed."""
        ...


def kafka_offsets(offsets: Offsets) -> list[TopicPartition]:
    """Return offsets as the client wants them."""
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]


def places_of(partitions: Iterable[TopicPartition]) -> list[Place]:
    """Return the places that the client means."""
    return [(each.topic, each.partition) for each in partitions]
