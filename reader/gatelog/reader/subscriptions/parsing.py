"""Kafka messages to batches of events: filtered by type before anything else is looked at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from struct import error as struct_error
from typing import Any, Final

from confluent_kafka import Message

from gatelog.core import histories, logs
from gatelog.core.domain import check_stream_id
from gatelog.core.errors import InvalidStreamIdError, UndecodableRecordError
from gatelog.core.telling import told
from gatelog.reader.subscriptions.events import ENVELOPE_BYTES, KafkaEvent, event_of
from gatelog.reader.subscriptions.places import Batch, Place
from gatelog.schemas.codec import WIRE_HEADER, Codec
from gatelog.schemas.envelope import (
    BIGINT_BEYOND,
    INTEGER_BEYOND,
    ForeignRecordError,
    NamesakeRecordError,
    chained,
    event_type_of,
)
from gatelog.schemas.upcasting import stored_types_of

_STREAMS_KNOWN_MAX: Final = 50_000
_TYPES_KNOWN_MAX: Final = 1_000
_schema_id = WIRE_HEADER.unpack_from

_log = logs.logger("subscription")


@dataclass(slots=True)
class _Open:
    events: list[KafkaEvent] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    next_offset: int = 0
    size_bytes: int = 0
    last: Message | None = None
    reached: int = 0  # the highest position so far
    needs: int = 0  # the position that is to be read before


def size_of(message: Message) -> int:
    """Return what a record will hold in memory as an event, roughly."""
    return ENVELOPE_BYTES + len(message)


class Parser:
    """Turns messages into batches. Foreign and unreadable records are logged, counted and passed over."""

    def __init__(self, source: str, codec: Codec, types: Collection[str] | None, met: set[str]) -> None:
        """Take records of ``source``; with ``types``, only events that may be read as these types.

        ``met`` gets the topics that hold records of another store of the same name.
        """
        self._source = source
        self._sources = frozenset((source, source.encode()))
        self._codec = codec
        self._types = None if types is None else frozenset(name.encode() for name in stored_types_of(types))
        self._streams: dict[bytes, str] = {}  # those that were checked
        self._event_types: dict[bytes, str] = {}
        self._met = met
        self.passed_over = 0

    def batches(self, messages: Sequence[Message], assigned: Mapping[Place, int]) -> list[Batch]:
        """Return one batch for each partition that messages came from, without those that are not ours any more."""
        found: dict[Place, _Open] = {}
        types, sources, event_of = self._types, self._sources, self._event
        place: Place | None = None
        batch = _Open()
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            if place is None or place[1] != partition or place[0] != topic:
                place = (topic, partition)
                batch = found.setdefault(place, _Open())
            batch.next_offset, batch.last = offset + 1, message
            headers = dict(message.headers() or ())
            is_own = headers.get("ce_source") in sources
            if is_own:
                position, previous = chained(headers)
                if previous > batch.reached:
                    batch.needs = previous
                batch.reached = max(batch.reached, position)
            if types is not None and is_own and not _is_wanted(headers, types):
                continue
            try:
                event = event_of(headers, message.value())
            except UndecodableRecordError as error:
                self._pass_over(message, error)
                continue
            batch.events.append(event)
            batch.offsets.append(offset)
            batch.size_bytes += ENVELOPE_BYTES + len(event.value)
        return [
            Batch(
                place,
                assigned[place],
                each.events,
                each.offsets,
                each.next_offset,
                each.size_bytes,
                histories.epoch_of(each.last),
                each.reached,
                each.needs,
            )
            for place, each in found.items()
            if place in assigned
        ]

    def _event(self, headers: dict[str, Any], value: bytes | None) -> KafkaEvent:
        """Look at what tells and orders events. What is not plainly right is parsed as a whole, for the reason."""
        try:
            if headers["ce_source"] not in self._sources or value is None or value[0] != 0:
                raise ValueError
            stream = self._streams.get(headers["ce_subject"]) or self._checked(headers["ce_subject"])
            version, position = headers["ce_streamversion"], headers["ce_position"]
            if not (version.isdigit() and position.isdigit()):
                raise ValueError
            version, position = int(version), int(position)
            schema_id = _schema_id(value)[1]
            if not (0 < version < BIGINT_BEYOND and 0 < position < BIGINT_BEYOND and schema_id < INTEGER_BEYOND):
                raise ValueError
            if not headers["ce_id"] or not headers["ce_time"]:
                raise ValueError
            type_ = self._event_types.get(headers["ce_type"]) or self._checked_type(headers["ce_type"])
            return KafkaEvent(stream, version, position, type_, schema_id, headers, value, self._source, self._codec)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, struct_error, InvalidStreamIdError):
            return event_of(self._source, headers, value, self._codec)

    def _checked(self, subject: bytes) -> str:
        if len(self._streams) >= _STREAMS_KNOWN_MAX:
            self._streams.clear()
        stream = self._streams[subject] = check_stream_id(subject.decode())
        return stream

    def _checked_type(self, header: bytes) -> str:
        if len(self._event_types) >= _TYPES_KNOWN_MAX:
            self._event_types.clear()
        event_type = self._event_types[header] = event_type_of(header)
        return event_type

    def _pass_over(self, message: Message, error: UndecodableRecordError) -> None:
        foreign = isinstance(error, ForeignRecordError)
        if isinstance(error, NamesakeRecordError):
            self._met.add(message.topic() or "")
        self.passed_over += 1
        _log.warning(
            "record.foreign" if foreign else "record.unreadable",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            reason=told(error),
        )


def _is_wanted(headers: Mapping[str, Any], types: Collection[bytes]) -> bool:
    """Say whether the type is one of ``types``. A record without a type is broken: it is looked at."""
    event_type: str | bytes | None = headers.get("ce_type")
    if event_type is None:
        return True
    return (event_type.encode() if isinstance(event_type, str) else event_type) in types
