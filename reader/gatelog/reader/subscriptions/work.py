"""What an engine works on: its plan, the partitions that it has, the events that wait, and what it counts."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from gatelog.reader.subscriptions.events import KafkaEvent
from gatelog.reader.subscriptions.failures import Failures
from gatelog.reader.subscriptions.marks import is_before_kafka
from gatelog.reader.subscriptions.parked import Entry
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.window import Window
from gatelog.schemas.envelope import RecordedEvent

Handler: TypeAlias = Callable[[RecordedEvent[Any]], Awaitable[object]]
Key: TypeAlias = str | Place  # what keeps order: the stream, or the partition


@dataclass(frozen=True, slots=True)
class Plan:
    """What an engine does, and within which bounds."""

    subscription: str
    source: str
    handlers: Mapping[str, Handler]
    fallback: Handler | None
    failures: Failures
    order: Literal["stream", "partition"]
    concurrency: int
    handler_timeout_s: float | None
    revoke_timeout_s: float
    stop_timeout_s: float


@dataclass(slots=True, eq=False)
class Partition:
    """A partition during one assignment."""

    place: Place
    window: Window
    position: int  # up to which it was read, or handled before; 0: not known yet
    settled: int  # the offset of the parked topic from which on it counts here what was said to be settled
    sent: int  # what was last asked to be committed
    sent_at: float = 0.0
    is_closed: bool = False  # it is being given up: only what commits what is done already is still handled
    is_gone: bool = False
    upto: int = 0  # the last offset that is still handled then
    is_paused: bool = False
    seen: int = 0  # the committable offset at the last tick

    def has_passed(self, entry: Entry) -> bool:
        """Say whether a parked event was read already. If not, those before it in its stream are to be handled first.

        After an offset that others have set, no position is known at first; an event of the index has no offset.
        """
        if self.position >= entry.position:
            return True
        return self.window.read_upto > entry.offset and not is_before_kafka(self.window.read_upto)


class Item(NamedTuple):
    """An event that waits for its turn, or is handled."""

    event: KafkaEvent | None  # None: it is fetched from the parked topic when its turn comes
    offset: int
    partition: Partition
    entry: Entry | None = None  # of a replay


@dataclass(slots=True)
class Counts:
    """What has happened since the engine began."""

    handled: int = 0
    failed: int = 0
    parked: int = 0
    skipped: int = 0
    replayed: int = 0
    progressed_at: float = field(default_factory=time.monotonic)
