"""What surrounds an event: the record that readers get, and the CloudEvents headers of its Kafka record.

CloudEvents 1.0, Kafka protocol binding, binary content mode: attributes are headers ``ce_…``, the value is the
payload alone. Extension attributes take lower-case letters and digits only.
"""

from collections.abc import Mapping, Sequence
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Any, Final, Generic, NamedTuple, TypeAlias, cast
from uuid import UUID

import orjson
from asyncpg.pgproto import pgproto
from typing_extensions import TypeVar

from gatelog.core.domain import (
    EVENT_TYPE_BYTES_MAX,
    RECORDED_BEFORE,
    RECORDED_FROM,
    category_of,
    check_stream_id,
)
from gatelog.core.errors import InvalidStreamIdError, UndecodableRecordError
from gatelog.core.identity import namesake_in
from gatelog.schemas.codec import WIRE_HEADER, Codec
from gatelog.schemas.event import Event
from gatelog.schemas.json_text import has_nul

Headers = Mapping[str, str | bytes | None] | Sequence[tuple[str, str | bytes | None]]

_SPECIFICATION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/vnd.confluent.avro")
_PREVIOUS: Final = "ce_previous"
_REQUIRED: Final = ("ce_id", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_position")
_WIRE_SCHEMA_ID: Final = WIRE_HEADER.unpack_from
_WIRE_BYTES: Final = WIRE_HEADER.size
BIGINT_BEYOND: Final = 2**63  # versions and positions are a bigint
INTEGER_BEYOND: Final = 2**31  # schema ids are an integer
_NUMERIC_PLACES_MAX: Final = 16_383  # after the point, in Postgres
_new: Final = tuple.__new__  # of a NamedTuple: its own constructor takes twice as long
_uuid: Final = pgproto.UUID  # asyncpg's own subclass of UUID, read several times as fast

Row: TypeAlias = Sequence[Any]  # the fields of a Record in their order; the position may be None
SCHEMA_ID: Final = 10  # place of schema_id in a row
DataT = TypeVar("DataT", default=Event | dict[str, Any], covariant=True)


class RecordedEvent(Generic[DataT]):
    """A stored event. Its envelope is here; its payload is decoded when asked for.

    ``RecordedEvent[OrderPlaced]`` says in an annotation what ``data`` will be. It is a view of a row, made by the
    hundred thousand: making one costs two references. It cannot be changed.
    """

    __slots__ = ("_codec", "_row")

    def __init__(self, row: Row, codec: Codec) -> None:
        """Look at ``row``: the fields of a ``Record``, in their order; ``position`` may be None."""
        self._row = row
        self._codec = codec

    @property
    def stream(self) -> str:
        """The stream id."""
        return self._row[0]  # type: ignore[no-any-return] # a row of a database

    @property
    def version(self) -> int:
        """The place in the stream, from 1."""
        return self._row[1]  # type: ignore[no-any-return] # see above

    @property
    def position(self) -> int | None:
        """The place in the store, from 1; None until the relay has published the event and the index holds it."""
        return self._row[2]  # type: ignore[no-any-return] # see above

    @property
    def id(self) -> UUID:
        """The event id."""
        return self._row[3]  # type: ignore[no-any-return] # see above

    @property
    def type(self) -> str:
        """The event type."""
        return self._row[4]  # type: ignore[no-any-return] # see above

    @property
    def recorded_at(self) -> datetime:
        """When the append passed the gate, or what a load of history said."""
        return self._row[5]  # type: ignore[no-any-return] # see above

    @property
    def correlation_id(self) -> UUID | None:
        """What the event belongs to: the id of a request, or of the event that began the story."""
        return self._row[6]  # type: ignore[no-any-return] # see above

    @property
    def causation_id(self) -> UUID | None:
        """The event or command that caused it."""
        return self._row[7]  # type: ignore[no-any-return] # see above

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context in which it was appended."""
        return self._row[8]  # type: ignore[no-any-return] # see above

    @property
    def metadata_json(self) -> str | None:
        """The free metadata as JSON text."""
        return self._row[9]  # type: ignore[no-any-return] # see above

    @property
    def schema_id(self) -> int:
        """The id of the schema that the payload was written with."""
        return self._row[SCHEMA_ID]  # type: ignore[no-any-return] # see above

    @property
    def raw(self) -> bytes:
        """The payload as stored: Avro without a header."""
        return self._row[11]  # type: ignore[no-any-return] # see above

    @property
    def part(self) -> int:
        """Which of ``parts`` it is, from 1: an upcaster may split a stored event. See ``gatelog.schemas.upcast``."""
        return 1

    @property
    def parts(self) -> int:
        """How many events the stored one is read as."""
        return 1

    @property
    def category(self) -> str:
        """What stands before the first ``-`` of the stream id."""
        return category_of(self.stream)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The free metadata; empty when none was given."""
        return orjson.loads(self.metadata_json) if self.metadata_json else {}

    @property
    def data(self) -> DataT:
        """The payload as the newest model of this program, or a dict when it defines none for the type.

        Raises:
            UndecodableRecordError: the stored bytes do not resolve.
        """
        return cast("DataT", self._codec.decode(self.type, self.schema_id, self.raw))

    def as_dict(self) -> dict[str, Any]:
        """Return the payload as it was written.

        Raises:
            UndecodableRecordError: the stored bytes are not of their schema.
        """
        row = self._row
        return self._codec.to_dict(row[SCHEMA_ID], row[11])

    def __eq__(self, other: object) -> bool:
        """Compare all that is stored."""
        return isinstance(other, RecordedEvent) and tuple(self._row) == tuple(other._row)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        position = "" if self.position is None else f" at {self.position}"
        return f"<RecordedEvent {self.stream}@{self.version} {self.type} {self.id}{position}>"


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


def previous_header(position: int) -> tuple[str, bytes]:
    """Return the header that names the record before, in its partition, by its position; 0: there is none."""
    return _PREVIOUS, b"%d" % position


def chained(headers: Mapping[str, Any]) -> tuple[int, int]:
    """Return the position of a record, and that of the record before it in its partition. 0: not known, or none.

    Whoever reads on in a partition and finds a higher one than it has read has missed records, whatever the offsets
    say: the topic was made again, or has lost records in between.
    """
    position, previous = headers.get("ce_position"), headers.get(_PREVIOUS)
    return (
        int(position) if isinstance(position, bytes) and position.isdigit() else 0,
        int(previous) if isinstance(previous, bytes) and previous.isdigit() else 0,
    )


class Record(NamedTuple):
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
        return RecordedEvent(self, codec)


class ForeignRecordError(UndecodableRecordError):
    """The record was not written by the relay of this store."""


class NamesakeRecordError(ForeignRecordError):
    """The record was written by the relay of another store of the same name."""


def parse_record(source: str, headers: Headers | None, value: bytes | None) -> Record:
    """Return the facts of a Kafka record.

    Raises:
        ForeignRecordError: its ``ce_source`` is missing or of another store.
        NamesakeRecordError: that has the same name.
        UndecodableRecordError: it claims to be ours, but an attribute or the wire header is missing or wrong.
    """
    found = dict(headers or ())
    if (origin := found.get("ce_source")) != source.encode() and origin != source:
        is_namesake = namesake_in(origin, source.split("/")[2]) is not None
        kind = NamesakeRecordError if is_namesake else ForeignRecordError
        raise kind(f"ce_source is {origin!r}, not {source!r}")
    try:
        return _record(found, value)
    except (KeyError, AttributeError) as error:
        if missing := [name for name in _REQUIRED if not found.get(name)]:
            raise UndecodableRecordError(f"headers {missing} are missing") from error
        if not any(isinstance(header, str) for header in found.values()):
            raise UndecodableRecordError(f"a header is not what it should be: {error}") from error
        return parse_record(source, _as_bytes(found), value)
    except (ValueError, TypeError, OverflowError, InvalidStreamIdError) as error:
        if value is None:
            raise UndecodableRecordError("it has no value") from error
        raise UndecodableRecordError(f"a header or the value is not what it should be: {error}") from error


def _as_bytes(found: Mapping[str, str | bytes | None]) -> dict[str, str | bytes | None]:
    """Headers as the client gives them are bytes; texts are as good."""
    left = {name: value for name, value in found.items() if value is not None}
    return {name: value.encode() if isinstance(value, str) else value for name, value in left.items()}


def _record(found: Mapping[str, Any], value: Any) -> Record:  # noqa: ANN401 - bytes, or None
    """Check what Postgres would refuse: one record that it cannot take must not hold up those behind it.

    Made for the usual case, where all is there and of bytes; what is not raises some error, and is looked at then.
    """
    optional = found.get
    recorded_at = datetime.fromisoformat(found["ce_time"].decode())
    if recorded_at.tzinfo is None:
        raise ValueError("ce_time has no time zone")
    if not (MINYEAR < recorded_at.year < MAXYEAR or RECORDED_FROM <= recorded_at < RECORDED_BEFORE):
        raise ValueError("ce_time is at the end of time")
    if (metadata := optional("ce_metadata")) is not None:
        metadata = _metadata(metadata)
    if (traceparent := optional("traceparent")) is not None:
        traceparent = _text("traceparent", traceparent)
    correlation, causation = optional("ce_correlationid"), optional("ce_causationid")
    event_type = event_type_of(found["ce_type"])
    if len(value) < _WIRE_BYTES or value[0] != 0:
        raise ValueError("the value is not in Confluent wire format")
    if (schema_id := _WIRE_SCHEMA_ID(value)[1]) >= INTEGER_BEYOND:
        raise ValueError(f"{schema_id} is not a schema id")
    version, position = found["ce_streamversion"], found["ce_position"]
    if not (version.isdigit() and position.isdigit()):  # int() takes more: "+1", " 1", "1_0"
        raise ValueError(f"{version!r} is not a version, or {position!r} not a position")
    version, position = int(version), int(position)
    if not (0 < version < BIGINT_BEYOND and 0 < position < BIGINT_BEYOND):
        raise ValueError(f"{version} is not a version, or {position} not a position")
    return _new(
        Record,
        (
            check_stream_id(found["ce_subject"].decode()),
            version,
            position,
            _uuid(found["ce_id"].decode()),
            event_type,
            recorded_at,
            _uuid(correlation.decode()) if correlation else None,
            _uuid(causation.decode()) if causation else None,
            traceparent,
            metadata,
            schema_id,
            value[_WIRE_BYTES:],
        ),
    )


def event_type_of(header: bytes) -> str:
    """Return the event type of a ``ce_type``.

    Raises:
        KeyError: it is empty.
        ValueError: it is longer than Postgres should be given, not UTF-8, or holds a NUL character.
    """
    if len(header) > EVENT_TYPE_BYTES_MAX:
        raise ValueError(f"ce_type is longer than {EVENT_TYPE_BYTES_MAX} bytes")
    if not (text := header.decode()):
        raise KeyError("ce_type")
    if "\0" in text:
        raise ValueError("ce_type holds a NUL character")
    return text


def _metadata(header: bytes) -> str:
    """Return the metadata as text that Postgres takes as jsonb: its numbers have a bound that JSON's have not."""
    text = header.decode()
    found = orjson.loads(text)
    if type(found) is not dict:
        raise ValueError("ce_metadata is not a JSON object")
    if "\0" in text or has_nul(text):
        raise ValueError("ce_metadata holds a NUL character")
    if "e-" in text or "E-" in text or len(text) > _NUMERIC_PLACES_MAX:
        return orjson.dumps(found).decode()
    return text


def _text(name: str, header: bytes) -> str:
    text = header.decode()
    if "\0" in text:
        raise ValueError(f"{name} holds a NUL character")
    return text
