"""From the rows of a tick to Kafka records."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final, TypeAlias

from gatelog.core.domain import topic_of
from gatelog.producer.relay.ticks import Tick
from gatelog.schemas.envelope import headers_of

# topic, key, value, headers, timestamp in ms, position. A tuple: an object for each would cost as much as its headers
Record: TypeAlias = tuple[str, str, bytes, list[tuple[str, str | bytes | None]], int, int]

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # where Postgres' microseconds begin
_EPOCH_MS: Final = int(_EPOCH.timestamp() * 1000)


def records_of(store: str, source: str, tick: Tick) -> Iterator[Record]:
    """Yield the records of a tick, in the order of their positions. The publisher knows what is before each."""
    encoded = source.encode()
    topics: dict[str, str] = {}
    second, text = 0, _text(0)
    for position, (
        _id,
        stream,
        category,
        event_type,
        version,
        event_id,
        micros,
        correlation_id,
        causation_id,
        traceparent,
        metadata,
        value,
    ) in zip(tick.positions or count(tick.first), tick.rows, strict=False):
        if category not in topics:
            topics[category] = topic_of(store, category)
        if micros // 1_000_000 != second:
            second = micros // 1_000_000
            text = _text(second)
        headers = headers_of(
            encoded,
            event_id,
            event_type,
            stream,
            version,
            position,
            f"{text}.{micros % 1_000_000:06}+00:00",
            correlation_id,
            causation_id,
            traceparent,
            metadata,
        )
        yield (
            topics[category],
            stream,
            value,
            headers,
            max(0, micros // 1000 + _EPOCH_MS),  # Kafka's time begins in 1970
            position,
        )


def _text(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
