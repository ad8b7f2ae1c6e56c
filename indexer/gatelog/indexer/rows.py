"""A Kafka record as a row of the index."""

from base64 import b64encode
from typing import Any, Final

import orjson
from confluent_kafka import Message

from gatelog.core.domain import category_of
from gatelog.core.errors import UndecodableRecordError
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Record
from gatelog.schemas.json_text import without_nul

COLUMNS: Final = (
    "position",
    "stream",
    "version",
    "event_id",
    "category",
    "type",
    "schema_id",
    "recorded_at",
    "correlation_id",
    "causation_id",
    "traceparent",
    "metadata",
    "data",
    "data_json",
)
POSITION, STREAM, VERSION, EVENT_ID = range(4)  # places in a row
TYPE, SCHEMA_ID, DATA = 5, 6, 12
UNREADABLE_COLUMNS: Final = ("topic", "partition", "offset", "reason", "key", "value", "headers")

Row = tuple[object, ...]


def row_of(record: Record, data_json: str | None) -> Row:
    """Return the row of a record, in the order of ``COLUMNS``."""
    return (
        record.position,
        record.stream,
        record.version,
        record.id,
        category_of(record.stream),
        record.type,
        record.schema_id,
        record.recorded_at,
        record.correlation_id,
        record.causation_id,
        record.traceparent,
        record.metadata_json,
        record.raw,
        data_json,
    )


def json_of(codec: Codec, schema_id: int, data: bytes) -> str:
    """Return the payload as JSON text that Postgres takes as jsonb.

    A NUL character, which jsonb cannot hold, becomes U+FFFD; the Avro bytes keep it.

    Raises:
        UndecodableRecordError: the schema is unknown, or the bytes are not of it.
    """
    payload = codec.to_dict(schema_id, data)
    try:
        return without_nul(orjson.dumps(payload, default=_plain).decode())
    except TypeError as error:
        raise UndecodableRecordError(f"the payload has no JSON form: {error}") from error


def _plain(value: Any) -> str:  # noqa: ANN401 - whatever orjson does not know: Decimal, bytes, large int
    return b64encode(value).decode() if isinstance(value, bytes) else str(value)


def unreadable_row(message: Message, reason: str) -> Row:
    """Return the row that keeps a record which cannot be read, in the order of ``UNREADABLE_COLUMNS``."""
    headers = {name: b64encode(_bytes(value)).decode() for name, value in dict(message.headers() or ()).items()}
    key, value = message.key(), message.value()
    return (
        message.topic(),
        message.partition(),
        message.offset(),
        reason,
        None if key is None else _bytes(key),
        None if value is None else _bytes(value),
        orjson.dumps(headers).decode(),
    )


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
