"""Opaque cursors: where a page of a query ended, signed, and of no use to another query."""

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64Error
from typing import Final

from gatelog.core.errors import InvalidCursorError

_FORMAT: Final = 1
_CONTENT: Final = struct.Struct(">BQ16s")  # format, position, fingerprint of the query
_SIGNATURE_BYTES: Final = 16
_CHARACTERS_MAX: Final = 100


def encode(key: bytes, fingerprint: bytes, position: int) -> str:
    """Return the cursor after ``position`` of the query with this fingerprint (16 bytes)."""
    content = _CONTENT.pack(_FORMAT, position, fingerprint)
    return _text(content + _signature(key, content))


def decode(key: bytes, fingerprint: bytes, cursor: str) -> int:
    """Return the position of a cursor.

    Raises:
        InvalidCursorError: it was altered, is of another store, or of another query.
    """
    if not isinstance(cursor, str) or len(cursor) > _CHARACTERS_MAX:
        raise InvalidCursorError("This is not a cursor")
    try:
        whole = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (NotBase64Error, ValueError) as error:
        raise InvalidCursorError("This is not a cursor") from error
    if _text(whole) != cursor:  # what base64 passes over was not written here
        raise InvalidCursorError("The cursor was altered")
    content, signature = whole[: _CONTENT.size], whole[_CONTENT.size :]
    if len(content) < _CONTENT.size or not hmac.compare_digest(signature, _signature(key, content)):
        raise InvalidCursorError("The cursor was altered, or is of another store")
    form, position, of_query = _CONTENT.unpack(content)
    if form != _FORMAT:
        raise InvalidCursorError(f"The cursor has format {form}, this gatelog knows {_FORMAT}")
    if of_query != fingerprint:
        raise InvalidCursorError("The cursor belongs to another query")
    return int(position)


def _text(whole: bytes) -> str:
    return urlsafe_b64encode(whole).decode().rstrip("=")


def _signature(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")[:_SIGNATURE_BYTES]
