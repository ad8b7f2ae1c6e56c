"""Parked events: what their records in the parked topic say, and what follows from them. Pure.

The topic of a subscription is compacted, and the event id is the key: the newest record of an id says how the event
stands (``parked``, ``replay``: asked for again), and one without a value says that it is settled.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from gatelog.core.errors import InvalidInputError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.telling import cut
from gatelog.reader.subscriptions.events import KafkaEvent
from gatelog.reader.subscriptions.marks import is_before_kafka
from gatelog.reader.subscriptions.places import Place
from gatelog.schemas.envelope import Headers

NAME_BYTES_MAX: Final = 64  # three characters a byte, escaped, and the store's name fit Kafka's 249
SETTLED_MAX: Final = 10_000

_PREFIX: Final = "gatelog_parked_"
_LESS_CHARACTERS: Final = 200
_TELLING: Final = frozenset({"ce_id", "ce_subject", "ce_streamversion", "ce_position", "ce_type", "ce_source"})
_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def check_length(subscription: str) -> None:
    """Refuse a name that would not fit a topic.

    Raises:
        InvalidInputError: it is too long.
    """
    if (size := len(subscription.encode())) > NAME_BYTES_MAX:
        raise InvalidInputError(f"Subscription name {subscription!r} has {size} bytes; at most {NAME_BYTES_MAX}.")


def parked_topic_of(settings: Identified, subscription: str) -> str:
    """Return the topic of a subscription's parked events: ``<store>-parked.<name>.<short id>``.

    Categories have their topics at ``<store>.``, and no store's name holds a ``-``: nothing that reads a store's
    events by its prefix finds this topic.
    """
    escaped = "".join(chr(b) if b in _SAFE else f"-{b:02X}" for b in subscription.encode())
    return f"{settings.store}-parked.{escaped}.{settings.short_id}"


class ParkedState(Enum):
    """How a parked event stands."""

    PARKED = "parked"
    REPLAY = "replay"  # asked for again; the member that has its partition will handle it


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event, with where it came from and why it is here."""

    event_id: str
    stream: str
    version: int
    position: int
    type: str
    place: Place
    offset: int
    state: ParkedState
    reason: str
    attempts: int
    trace: str
    parked_at: datetime
    headers: tuple[tuple[str, bytes], ...]  # of the event's own record
    value: bytes  # empty: it did not fit; see ``originals``

    @property
    def is_reference(self) -> bool:
        """Whether it lacks its payload, and all headers but those that tell which event it is."""
        return not self.value

    def lighter(self) -> "tuple[ParkedEvent, ParkedEvent]":
        """Return it with less to say about the failure; and such that its event must be read from its stream."""
        less = replace(self, reason=cut(self.reason, _LESS_CHARACTERS), trace=cut(self.trace, _LESS_CHARACTERS))
        kept = tuple((name, value) for name, value in self.headers if name in _TELLING)
        return less, replace(less, headers=kept, value=b"")

    @classmethod
    def of(
        cls, event: KafkaEvent, place: Place, offset: int, reason: str, attempts: int, trace: str
    ) -> "ParkedEvent":
        """Park ``event``, which was read from ``place`` at ``offset``; -1 stands for what came from the index."""
        return cls(
            event.id_text,
            event.stream,
            event.version,
            event.position,
            event.type,
            place,
            -1 if is_before_kafka(offset) else offset,
            ParkedState.PARKED,
            reason,
            attempts,
            trace,
            datetime.now(UTC),
            kafka_headers(event.headers),
            event.value,
        )

    def asked_again(self) -> "ParkedEvent":
        """Return it as one to replay."""
        return replace(self, state=ParkedState.REPLAY)

    def failed_again(self, reason: str, attempts: int, trace: str) -> "ParkedEvent":
        """Return it parked anew, after a replay that failed; attempts add up."""
        return replace(
            self,
            state=ParkedState.PARKED,
            reason=reason,
            attempts=self.attempts + attempts,
            trace=trace,
            parked_at=datetime.now(UTC),
        )

    def record_headers(self) -> list[tuple[str, str | bytes | None]]:
        """Return the headers of its record: the event's own, and ours."""
        own = {
            "state": self.state.value,
            "reason": self.reason,
            "attempts": str(self.attempts),
            "trace": self.trace,
            "at": self.parked_at.isoformat(),
            "topic": self.place[0],
            "partition": str(self.place[1]),
            "offset": str(self.offset),
        }
        return [*self.headers, *((_PREFIX + name, value.encode(errors="replace")) for name, value in own.items())]


def parked_event(headers: Headers | None, value: bytes) -> ParkedEvent:
    """Return what a record of the parked topic says.

    Raises:
        UndecodableRecordError: it is none of ours.
    """
    pairs = [(name, _bytes(content)) for name, content in dict(headers or ()).items()]
    found = {name: content.decode(errors="replace") for name, content in pairs}
    try:
        return ParkedEvent(
            found["ce_id"],
            found["ce_subject"],
            int(found["ce_streamversion"]),
            int(found["ce_position"]),
            found["ce_type"],
            (found[_PREFIX + "topic"], int(found[_PREFIX + "partition"])),
            int(found[_PREFIX + "offset"]),
            ParkedState(found[_PREFIX + "state"]),
            found[_PREFIX + "reason"],
            int(found[_PREFIX + "attempts"]),
            found[_PREFIX + "trace"],
            datetime.fromisoformat(found[_PREFIX + "at"]),
            tuple((name, content) for name, content in pairs if not name.startswith(_PREFIX)),
            value,
        )
    except (KeyError, ValueError) as error:
        raise UndecodableRecordError(f"A record of a parked topic is not what gatelog writes: {error!r}") from error


def kafka_headers(headers: Mapping[str, str | bytes | None]) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of a record as they are parked."""
    return tuple((name, _bytes(value)) for name, value in headers.items())


def _bytes(content: str | bytes | None) -> bytes:
    return content.encode() if isinstance(content, str) else content or b""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a member keeps of a parked event; its bytes stay in Kafka, at ``parked_offset``."""

    event_id: str
    stream: str
    version: int
    position: int
    place: Place
    offset: int
    state: ParkedState
    is_follower: bool  # it never failed: it is parked only because one before it in its stream is
    parked_offset: int


class ParkedView:
    """What is parked now, as far as the topic was read."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._entries: dict[str, Entry] = {}
        self._streams: dict[str, dict[str, Entry]] = {}
        self._settled: OrderedDict[str, int] = OrderedDict()  # with the offset of that word

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def apply(self, event_id: str, offset: int, entry: Entry | None) -> None:
        """Take a word on an event, which stands at ``offset``; None: it is settled. Older words change nothing."""
        old = self._entries.get(event_id)
        if offset < (old.parked_offset if old is not None else self._settled.get(event_id, 0)):
            return
        self._remove(event_id)
        if entry is None:
            self._settled[event_id] = offset
            if len(self._settled) > SETTLED_MAX:
                self._settled.popitem(last=False)
            return
        self._settled.pop(event_id, None)
        self._entries[event_id] = entry
        self._streams.setdefault(entry.stream, {})[event_id] = entry

    def _remove(self, event_id: str) -> None:
        old = self._entries.pop(event_id, None)
        if old is not None:
            stream = self._streams[old.stream]
            del stream[event_id]
            if not stream:
                del self._streams[old.stream]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is or was parked, so that no event needs a second look."""
        return not self._entries and not self._settled

    def knows(self, event_id: str, settled: int) -> bool:
        """Say whether the event is parked, or was settled at an offset from ``settled`` on: then it is not handled.

        It comes again because the group had not committed what stands before it. What was settled before ``settled``
        comes again because the group was set back, and is to be handled again.
        """
        return event_id in self._entries or self._settled.get(event_id, -1) >= settled

    def get(self, event_id: str) -> Entry | None:
        """Return the entry of an event that is parked."""
        return self._entries.get(event_id)

    def is_held(self, stream: str, version: int) -> bool:
        """Say whether events of the stream before this version are parked."""
        return any(entry.version < version for entry in self._streams.get(stream, {}).values())

    def due(self, stream: str, *, hold: bool) -> list[Entry]:
        """Return what to handle of a stream now, in order: what was asked for, and what only followed.

        With ``hold``, only what no event that failed, and was not asked for again, stands before.
        """
        due = []
        for entry in self._of(stream):
            if entry.state is ParkedState.REPLAY or entry.is_follower:
                due.append(entry)
            elif hold:
                break
        return due

    def is_due(self, entry: Entry, *, hold: bool) -> bool:
        """Say whether an entry that was due still is: with ``hold``, when nothing stands before it any more.

        What stood before it was due too, and may have failed again meanwhile, or have been asked for once more.
        """
        return not hold or not any(each.version < entry.version for each in self._streams[entry.stream].values())

    def streams(self) -> list[str]:
        """Return the streams with parked events."""
        return list(self._streams)

    def _of(self, stream: str) -> list[Entry]:
        return sorted(self._streams.get(stream, {}).values(), key=lambda entry: entry.version)
