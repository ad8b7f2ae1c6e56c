"""Stored events as they are read: some become several, or of another type, on the way through upcasters."""

from collections.abc import Collection
from typing import Any

from gatelog.core.errors import UndecodableRecordError
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent, Row
from gatelog.schemas.event import Event


class EventPart(RecordedEvent):
    """One of the events that a stored event is read as; envelope, id and ``raw`` are those of the stored one."""

    __slots__ = ("_data", "_part", "_parts", "_type")

    def __init__(
        self, row: Row, codec: Codec, event_type: str, data: Event | dict[str, Any], part: int, parts: int
    ) -> None:
        """Be part number ``part`` of ``parts``."""
        super().__init__(row, codec)
        self._type, self._data, self._part, self._parts = event_type, data, part, parts

    @property
    def type(self) -> str:
        """The event type that it is read as."""
        return self._type

    @property
    def data(self) -> Event | dict[str, Any]:
        """The payload, decoded already."""
        return self._data

    @property
    def part(self) -> int:
        """Which of ``parts`` it is, from 1."""
        return self._part

    @property
    def parts(self) -> int:
        """How many events the stored one is read as."""
        return self._parts

    def __eq__(self, other: object) -> bool:
        """Compare all that is stored, and the part."""
        return isinstance(other, RecordedEvent) and other.part == self.part and super().__eq__(other)

    def __hash__(self) -> int:
        return hash((self.id, self._part))


def as_read(
    events: list[RecordedEvent], types: Collection[str] | None = None, *, backward: bool = False
) -> list[RecordedEvent]:
    """Return stored events as they are read, in order, the parts of one together; with ``types``, only those.

    ``backward``: the last part comes first.

    One that cannot be decoded stays as it is, whatever ``types`` says, since nobody knows what it would be: who asks
    for its data hears why.
    """
    found = events
    if events and events[0]._codec.reshapes:
        found = [part for event in events for part in (reversed(_parts(event)) if backward else _parts(event))]
    return found if types is None else [each for each in found if each.type in types or is_unknown(each)]


def is_unknown(event: RecordedEvent) -> bool:
    """Say whether an event of ``as_read`` would be others, but could not be decoded."""
    return event.schema_id in event._codec.reshapes and not isinstance(event, EventPart)


def _parts(event: RecordedEvent) -> list[RecordedEvent]:
    codec = event._codec
    if event.schema_id not in codec.reshapes:
        return [event]
    try:
        made = codec.evolve(event.schema_id, event.raw)
    except UndecodableRecordError:
        return [event]
    return [
        EventPart(event._row, codec, each.event_type, each.data, number, len(made))
        for number, each in enumerate(made, 1)
    ]
