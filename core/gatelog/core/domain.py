"""Domain values: stream ids, categories, topic names, expected versions. Checked once, at the door."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from gatelog.core.errors import InvalidStreamIdError, SettingsError

STREAM_ID_BYTES_MAX: Final = 255
CATEGORY_BYTES_MAX: Final = 72  # three characters a byte, escaped, and the store's name fit Kafka's 249
STORE_CHARACTERS_MAX: Final = 32
EVENT_TYPE_BYTES_MAX: Final = 255
# A day within what a datetime holds, so that it is one in every time zone, and never Postgres' infinity.
RECORDED_FROM: Final = datetime.min.replace(tzinfo=UTC) + timedelta(days=1)
RECORDED_BEFORE: Final = datetime(9999, 12, 31, tzinfo=UTC)

_STORE: Final = re.compile(rf"[a-z][a-z0-9]{{0,{STORE_CHARACTERS_MAX - 1}}}")
_TOPIC_ESCAPED: Final = re.compile(rb"-([0-9A-F]{2})")
_TOPIC_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CONTROL: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


class StreamState(Enum):
    """What an append may expect of a stream instead of an exact version."""

    NO_STREAM = "no stream"
    STREAM_EXISTS = "an existing stream"
    ANY = "any version"

    def __str__(self) -> str:
        return self.value


NO_STREAM: Final = StreamState.NO_STREAM
STREAM_EXISTS: Final = StreamState.STREAM_EXISTS
ANY: Final = StreamState.ANY

ExpectedVersion = int | StreamState


def check_stream_id(stream: str) -> str:
    """Return ``stream`` if it is legal: ``Category-key``, at most 255 bytes of UTF-8, no control characters.

    Raises:
        InvalidStreamIdError: it is not, with the reason.
    """
    if not isinstance(stream, str):
        raise InvalidStreamIdError(stream, "is not a string")
    if not stream:
        raise InvalidStreamIdError(stream, "is empty")
    if not stream.isprintable() and any(unicodedata.category(c) in _CONTROL for c in stream):
        raise InvalidStreamIdError(stream, "holds a control character, a line separator or half a surrogate pair")
    if len(stream) * 4 > STREAM_ID_BYTES_MAX and (size := len(stream.encode())) > STREAM_ID_BYTES_MAX:
        raise InvalidStreamIdError(stream, f"has {size} bytes; {STREAM_ID_BYTES_MAX} are allowed")
    category, dash, key = stream.partition("-")
    if not (category and dash and key):
        raise InvalidStreamIdError(stream, "lacks a category, a '-' or a key")
    if len(category) * 4 > CATEGORY_BYTES_MAX and len(category.encode()) > CATEGORY_BYTES_MAX:
        raise InvalidStreamIdError(stream, f"has a category of over {CATEGORY_BYTES_MAX} bytes")
    return stream


def category_of(stream: str) -> str:
    """Return what stands before the first ``-`` of a legal stream id."""
    return stream.partition("-")[0]


def check_store_name(store: str) -> str:
    """Return ``store`` if it is legal: lower-case letters and digits, at most 32, a letter first.

    The name is a Postgres schema and a Kafka topic prefix. ``_``, ``.`` and ``-`` are left out because Kafka
    takes topics that differ only in ``.`` and ``_`` for the same.

    Raises:
        SettingsError: it is not legal.
    """
    if not _STORE.fullmatch(store):
        raise SettingsError(
            f"Store name {store!r} is not legal: lower-case letters and digits, a letter first, "
            f"at most {STORE_CHARACTERS_MAX} characters."
        )
    return store


def topic_of(store: str, category: str) -> str:
    """Return the Kafka topic of a category: ``<store>.<category>``.

    Bytes that Kafka does not allow, and ``.``, become ``-XX`` in hexadecimal. A category never holds ``-``,
    so that no two categories share a topic.
    """
    return f"{store}." + "".join(chr(b) if b in _TOPIC_SAFE else f"-{b:02X}" for b in category.encode())


def category_of_topic(store: str, topic: str) -> str:
    """Return the category whose topic this is."""
    escaped = topic.removeprefix(f"{store}.").encode()
    return _TOPIC_ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), escaped).decode()


def topic_pattern(store: str) -> str:
    """Return the librdkafka subscription pattern (it starts with ``^``) that fits every topic of a store."""
    return rf"^{re.escape(store)}\.[A-Za-z0-9_-]+$"
