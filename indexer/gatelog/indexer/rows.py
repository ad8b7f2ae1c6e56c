"""A Kafka record as a row of the index."""

from base64 import b64encode
from decimal import Decimal
from typing import Any, Final

import orjson
from confluent_kafka import Message

from gatelog.core.domain import category_of
from gatelog.core.errors import UndecodableRecordError
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Record
from gatelog.schemas.json_text import without_nul

COLUMNS: Final = (  # those of a Record, in its order, and what follows from it
    "stream",
    "version",
    "position",
    "event_id",
    "type",
    "recorded_at",
    "correlation_id",
    "causation_id",
    "traceparent",
    "metadata",
    "schema_id",
    "data",
    "category",
    "data_json",
)
STREAM, VERSION, POSITION, EVENT_ID, TYPE = range(5)  # places in a row
SCHEMA_ID, DATA = 10, 11
UNREADABLE_COLUMNS: Final = ("topic", "partition", "offset", "reason", "key", "value", "headers")

Row = tuple[object, ...]


def row_of(record: Record, data_json: str | None) -> Row:
    """Return the row of a record, in the order of ``COLUMNS``."""
    return record + (category_of(record.stream), data_json)  # noqa: RUF005 - unpacking a Record takes twice as long


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
    if isinstance(value, Decimal):
        return format(value, "f")  # str() says 0E-8
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
