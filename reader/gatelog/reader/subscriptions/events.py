"""An event as it was read from Kafka, parsed as far as it is looked at.

A consumer that reads envelopes by the hundred thousand must not pay for ids and times that it does not ask for.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from gatelog.schemas.codec import WIRE_HEADER, Codec
from gatelog.schemas.envelope import Record, RecordedEvent, headers_of, parse_record

ENVELOPE_BYTES: Final = 512  # of the headers, and of the objects that hold them
_WIRE_BYTES: Final = WIRE_HEADER.size


class KafkaEvent(RecordedEvent[Any]):
    """An event as it was read from Kafka; ``headers`` and ``value`` are its record's own."""

    __slots__ = ("_record", "headers", "position", "schema_id", "source", "stream", "type", "value", "version")

    stream: str
    version: int
    position: int
    type: str
    schema_id: int
    headers: dict[str, Any]
    value: bytes
    source: str
    _record: Record | None

    def __init__(
        self,
        stream: str,
        version: int,
        position: int,
        type_: str,
        schema_id: int,
        headers: dict[str, Any],
        value: bytes,
        source: str,
        codec: Codec,
    ) -> None:
        """Take what was looked at; the rest is parsed when asked for."""
        self.stream = stream
        self.version = version
        self.position = position
        self.type = type_
        self.schema_id = schema_id
        self.headers = headers
        self.value = value
        self.source = source
        self._codec = codec
        self._record = None

    @property
    def _row(self) -> Record:  # type: ignore[override] # what the base keeps as it came
        """All of it, parsed and checked.

        Raises:
            UndecodableRecordError: an attribute is not what it should be.
        """
        if self._record is None:
            self._record = parse_record(self.source, self.headers, self.value)
        return self._record

    @property
    def id(self) -> UUID:
        """The event id."""
        return self._row.id

    @property
    def recorded_at(self) -> datetime:
        """When the append passed the gate, or what a load of history said."""
        return self._row.recorded_at

    @property
    def raw(self) -> bytes:
        """The payload as stored: Avro without a header."""
        return self.value[_WIRE_BYTES:]

    def as_dict(self) -> dict[str, Any]:
        """Return the payload as it was written.

        Raises:
            UndecodableRecordError: the stored bytes are not of their schema.
        """
        return self._codec.to_dict(self.schema_id, self.value[_WIRE_BYTES:])

    @property
    def id_text(self) -> str:
        """The event id as it stands in the record."""
        found: str | bytes = self.headers["ce_id"]
        return found.decode(errors="replace") if isinstance(found, bytes) else found

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, roughly."""
        return ENVELOPE_BYTES + len(self.value)


def event_of(source: str, headers: dict[str, Any], value: bytes | None, codec: Codec) -> KafkaEvent:
    """Return the event of a record, parsed and checked as a whole.

    Raises:
        ForeignRecordError: its ``ce_source`` is missing or of another store.
        UndecodableRecordError: it claims to be ours, but an attribute or the wire header is missing or wrong.
    """
    found = parse_record(source, headers, value)
    assert value is not None
    return KafkaEvent(
        found.stream, found.version, found.position, found.type, found.schema_id, headers, value, source, codec
    )


def kafka_record(source: str, record: Record) -> tuple[dict[str, str | bytes | None], bytes]:
    """Return headers and value of an event's record in Kafka, as the relay wrote them and they are read."""
    headers = headers_of(
        source.encode(),
        str(record.id),
        record.type,
        record.stream,
        str(record.version),
        record.position,
        record.recorded_at.isoformat(timespec="microseconds"),
        None if record.correlation_id is None else str(record.correlation_id),
        None if record.causation_id is None else str(record.causation_id),
        record.traceparent,
        record.metadata_json,
    )
    value = WIRE_HEADER.pack(0, record.schema_id) + record.raw
    return {name: text.encode() if isinstance(text, str) else text for name, text in headers}, value
