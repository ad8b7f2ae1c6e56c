"""Events on their way to the gate: checked at the door, encoded once."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Final
from uuid import UUID

import orjson

from gatelog.core.errors import InvalidEventError, InvalidInputError
from gatelog.core.settings import Settings
from gatelog.producer.gate import EncodedEvent
from gatelog.schemas.causation import cause
from gatelog.schemas.codec import Codec
from gatelog.schemas.event import NewEvent
from gatelog.schemas.json_text import has_nul

_TRACEPARENT_CHARACTERS_MAX: Final = 512


def encode_events(
    codec: Codec, settings: Settings, stream: str, events: Sequence[NewEvent]
) -> tuple[EncodedEvent, ...]:
    """Return the events of an append to ``stream`` as the outbox takes them; the codec knows their models.

    What is being handled right now (see ``gatelog.schemas.causation``) is their cause, unless they name one.

    Raises:
        InvalidInputError: no events, too many, or an id twice.
        InvalidEventError: one of them does not fit its schema, is too large, or cannot be stored.
    """
    if not events:
        raise InvalidInputError(f"Append to {stream!r} has no events.")
    check_count(settings, repr(stream), len(events))
    if len(events) > 1 and len({event.id for event in events}) < len(events):
        raise InvalidInputError(f"Append to {stream!r} has an event id twice.")
    return tuple([encode_event(codec, settings, stream, event) for event in events])


def check_count(settings: Settings, where: str, events: int) -> None:
    """Hold the bound of one append, however many streams it goes to.

    Raises:
        InvalidInputError: too many.
    """
    if events > settings.append_events_max:
        raise InvalidInputError(
            f"Append to {where} has {events:,} events; {settings.append_events_max:,} are allowed "
            "(append_events_max)."
        )


def encode_event(codec: Codec, settings: Settings, stream: str, event: NewEvent) -> EncodedEvent:
    """Return one event as the outbox takes it.

    Raises:
        InvalidEventError: it does not fit its schema, is too large, or cannot be stored.
    """
    if not isinstance(event.id, UUID):
        raise InvalidEventError(stream, event.data.event_type, f"its id {event.id!r} is no UUID")
    schema_id, data = codec.encode(event.data, stream, settings.event_bytes_max)
    correlation_id, causation_id, traceparent = event.correlation_id, event.causation_id, event.traceparent
    if correlation_id is not None or causation_id is not None:
        _check_ids(stream, event)
    if (handled := cause()) is not None:
        correlation_id = correlation_id or handled.correlation_id or handled.id
        causation_id = causation_id or handled.id
        traceparent = traceparent or handled.traceparent
    if traceparent is not None:
        _check_traceparent(stream, event, traceparent)
    metadata = None if event.metadata is None else _metadata_json(settings, stream, event)
    return EncodedEvent(
        event.id, event.data.event_type, schema_id, data, correlation_id, causation_id, traceparent, metadata
    )


def _metadata_json(settings: Settings, stream: str, event: NewEvent) -> str:
    try:
        encoded = orjson.dumps(dict(event.metadata or {}))
    except (TypeError, ValueError) as error:
        raise InvalidEventError(stream, event.data.event_type, f"its metadata is not JSON: {error}") from error
    if len(encoded) > settings.metadata_bytes_max:
        raise InvalidEventError(
            stream,
            event.data.event_type,
            f"its metadata has {len(encoded):,} bytes; {settings.metadata_bytes_max:,} are allowed "
            "(metadata_bytes_max)",
        )
    text = encoded.decode()
    if orjson.loads(encoded) != event.metadata and (odd := _no_json(event.metadata)):
        raise InvalidEventError(stream, event.data.event_type, f"its metadata holds {odd[0]}, which JSON lacks")
    if has_nul(text):
        raise InvalidEventError(stream, event.data.event_type, "its metadata holds a NUL character")
    return text


def _no_json(value: object) -> list[str]:
    """Name what orjson writes and nobody reads back: NaN as null; times, UUIDs and data classes as others."""
    if isinstance(value, float) and not isfinite(value):
        return ["NaN or Infinity"]
    if value is None or isinstance(value, (str, int, float)):
        return []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [odd for each in value for odd in _no_json(each)]
    return [f"a {type(value).__name__}"]


def _check_ids(stream: str, event: NewEvent) -> None:
    for name in ("correlation_id", "causation_id"):
        value = getattr(event, name)
        if value is not None and not isinstance(value, UUID):
            raise InvalidEventError(stream, event.data.event_type, f"its {name} {value!r} is no UUID")


def _check_traceparent(stream: str, event: NewEvent, value: str) -> None:
    if not (
        isinstance(value, str)
        and value.isascii()
        and value.isprintable()
        and len(value) <= _TRACEPARENT_CHARACTERS_MAX
    ):
        raise InvalidEventError(stream, event.data.event_type, "its traceparent is not a W3C trace context header")
