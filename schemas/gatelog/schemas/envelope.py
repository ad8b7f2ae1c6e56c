"""What surrounds an event: the record that readers get, and the CloudEvents headers of its Kafka record.

CloudEvents 1.0, Kafka protocol binding, binary content mode: attributes are headers ``ce_…``, the value is the
payload alone. Extension attributes take lower-case letters and digits only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from gatelog.core.domain import category_of, check_stream_id
from gatelog.core.errors import InvalidStreamIdError, UndecodableRecordError
from gatelog.schemas.codec import WIRE_HEADER, Codec
from gatelog.schemas.event import Event
from gatelog.schemas.json_text import has_nul

Headers = Mapping[str, str | bytes | None] | Sequence[tuple[str, str | bytes | None]]

_SPECIFICATION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/vnd.confluent.avro")
_REQUIRED: Final = ("ce_id", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_position")
_ATTRIBUTES: Final = (*_REQUIRED, "ce_correlationid", "ce_causationid", "traceparent", "ce_metadata")


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A stored event. Its envelope is here; its payload is decoded when asked for.

    ``position`` is None until the relay has published the event and the index holds it.
    """

    stream: str
    version: int
    position: int | None
    id: UUID
    type: str
    recorded_at: datetime
    correlation_id: UUID | None
    causation_id: UUID | None
    traceparent: str | None
    metadata_json: str | None
    schema_id: int
    raw: bytes = field(repr=False)
    codec: Codec = field(repr=False, compare=False)

    @property
    def category(self) -> str:
        """What stands before the first ``-`` of the stream id."""
        return category_of(self.stream)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The free metadata; empty when none was given."""
        return orjson.loads(self.metadata_json) if self.metadata_json else {}

    @property
    def data(self) -> Event | dict[str, Any]:
        """The payload as the newest model of this program, or a dict when it defines none for the type.

        Raises:
            UndecodableRecordError: the stored bytes do not resolve.
        """
        return self.codec.decode(self.type, self.schema_id, self.raw)

    def as_dict(self) -> dict[str, Any]:
        """Return the payload as it was written.

        Raises:
            UndecodableRecordError: the stored bytes are not of their schema.
        """
        return self.codec.to_dict(self.schema_id, self.raw)


def source_of(store: str) -> str:
    """Return the CloudEvents source of a store: it tells whose record a record is."""
    return f"/gatelog/{store}"


def headers_of(
    source: bytes,
    event_id: str,
    event_type: str,
    stream: str,
    version: str,
    position: int,
    time: str,
    correlation_id: str | None,
    causation_id: str | None,
    traceparent: str | None,
    metadata: str | None,
) -> list[tuple[str, str | bytes | None]]:
    """Return the headers of an event's record; what is None is left out.

    The relay makes them by the hundred thousand: texts come as texts, ``time`` in ISO 8601.
    """
    headers: list[tuple[str, str | bytes | None]] = [
        _SPECIFICATION,
        _CONTENT_TYPE,
        ("ce_source", source),
        ("ce_id", event_id),
        ("ce_type", event_type),
        ("ce_subject", stream),
        ("ce_time", time),
        ("ce_streamversion", version),
        ("ce_position", str(position)),
    ]
    if correlation_id is not None:
        headers.append(("ce_correlationid", correlation_id))
    if causation_id is not None:
        headers.append(("ce_causationid", causation_id))
    if traceparent is not None:
        headers.append(("traceparent", traceparent))
    if metadata is not None:
        headers.append(("ce_metadata", metadata))
    return headers


@dataclass(frozen=True, slots=True)
class Record:
    """A Kafka record of this store, parsed; the same facts as a ``RecordedEvent``, without a codec."""

    stream: str
    version: int
    position: int
    id: UUID
    type: str
    recorded_at: datetime
    correlation_id: UUID | None
    causation_id: UUID | None
    traceparent: str | None
    metadata_json: str | None
    schema_id: int
    raw: bytes

    def with_codec(self, codec: Codec) -> RecordedEvent:
        """Return the event as readers get it."""
        return RecordedEvent(
            self.stream,
            self.version,
            self.position,
            self.id,
            self.type,
            self.recorded_at,
            self.correlation_id,
            self.causation_id,
            self.traceparent,
            self.metadata_json,
            self.schema_id,
            self.raw,
            codec,
        )


class ForeignRecordError(UndecodableRecordError):
    """The record was not written by the relay of this store."""


def parse_record(source: str, headers: Headers | None, value: bytes | None) -> Record:
    """Return the facts of a Kafka record.

    Raises:
        ForeignRecordError: its ``ce_source`` is missing or of another store.
        UndecodableRecordError: it claims to be ours, but an attribute or the wire header is missing or wrong.
    """
    found = dict(headers or ())
    if found.get("ce_source") not in {source, source.encode()}:
        raise ForeignRecordError(f"ce_source is {found.get('ce_source')!r}, not {source!r}")
    if missing := [name for name in _REQUIRED if not found.get(name)]:
        raise UndecodableRecordError(f"headers {missing} are missing")
    if value is None or len(value) < WIRE_HEADER.size or value[0] != 0:
        raise UndecodableRecordError("the value is not in Confluent wire format")
    try:
        return _record({name: _text(found.get(name)) for name in _ATTRIBUTES}, value)
    except (ValueError, TypeError, InvalidStreamIdError) as error:
        raise UndecodableRecordError(f"a header is not what it should be: {error}") from error


def _text(header: str | bytes | None) -> str | None:
    text = header.decode() if isinstance(header, bytes) else header
    if text is not None and "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character")
    return text


def _record(found: dict[str, Any], value: bytes) -> Record:
    """Check what Postgres would refuse: one record that it cannot take must not hold up those behind it."""
    correlation, causation = found["ce_correlationid"], found["ce_causationid"]
    recorded_at = datetime.fromisoformat(found["ce_time"])
    if recorded_at.tzinfo is None:
        raise ValueError("ce_time has no time zone")
    if (metadata := found["ce_metadata"]) is not None:
        orjson.loads(metadata)
        if has_nul(metadata):
            raise ValueError("ce_metadata holds a NUL character")
    return Record(
        stream=check_stream_id(found["ce_subject"]),
        version=_positive(found["ce_streamversion"]),
        position=_positive(found["ce_position"]),
        id=UUID(found["ce_id"]),
        type=found["ce_type"],
        recorded_at=recorded_at,
        correlation_id=UUID(correlation) if correlation else None,
        causation_id=UUID(causation) if causation else None,
        traceparent=found["traceparent"],
        metadata_json=metadata,
        schema_id=WIRE_HEADER.unpack_from(value)[1],
        raw=value[WIRE_HEADER.size :],
    )


def _positive(text: str) -> int:
    number = int(text)
    if not 0 < number < 2**63:
        raise ValueError(f"{text} is not a version or position")
    return number
