"""Kafka messages to batches of events, filtered by type before anything else is looked at."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import Message

from gatelog.core import logs
from gatelog.core.errors import UndecodableRecordError
from gatelog.reader.subscriptions.places import Batch, Place
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import ForeignRecordError, Headers, RecordedEvent, parse_record
from gatelog.schemas.upcasting import stored_types_of

ENVELOPE_BYTES = 512  # of the headers, and of the objects that hold them

_log = logs.logger("subscription")


@dataclass(slots=True)
class _Open:
    events: list[RecordedEvent] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    next_offset: int = 0
    size_bytes: int = 0


class Parser:
    """Turns messages into batches. Foreign and unreadable records are logged, counted and passed over."""

    def __init__(self, source: str, codec: Codec, types: Collection[str] | None) -> None:
        """Take records of ``source``; with ``types``, only events that may be read as these types."""
        self._source = source
        self._codec = codec
        self._types = None if types is None else frozenset(name.encode() for name in stored_types_of(types))
        self.passed_over = 0

    def batches(self, messages: Sequence[Message], assigned: Mapping[Place, int]) -> list[Batch]:
        """Return one batch for each partition that messages came from, without those that are not ours any more."""
        found: dict[Place, _Open] = {}
        types, codec, source = self._types, self._codec, self._source
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
            batch.next_offset = offset + 1
            headers, value = message.headers(), message.value()
            if types is not None and not _is_wanted(headers, types):
                continue
            try:
                event = parse_record(source, headers, value).with_codec(codec)
            except UndecodableRecordError as error:
                self._pass_over(message, error)
                continue
            batch.events.append(event)
            batch.offsets.append(offset)
            batch.size_bytes += ENVELOPE_BYTES + len(event.raw)
        return [
            Batch(place, assigned[place], each.events, each.offsets, each.next_offset, each.size_bytes)
            for place, each in found.items()
            if place in assigned
        ]

    def _pass_over(self, message: Message, error: UndecodableRecordError) -> None:
        foreign = isinstance(error, ForeignRecordError)
        self.passed_over += 1
        _log.warning(
            "record.foreign" if foreign else "record.unreadable",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            reason=str(error),
        )


def _is_wanted(headers: Headers | None, types: Collection[bytes]) -> bool:
    """Say whether the type is one of ``types``. A record without a type is not ours, or broken: it is looked at."""
    for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        if name == "ce_type":
            return (value.encode() if isinstance(value, str) else value) in types
    return True
