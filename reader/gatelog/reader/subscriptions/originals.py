"""Events that are parked without their payload, because it did not fit the topic: read from their streams."""

from dataclasses import replace

from gatelog.core import postgres
from gatelog.core.consumer_errors import ParkedWithoutPayloadError
from gatelog.core.identity import Identified
from gatelog.reader.sharded import opened_source
from gatelog.reader.subscriptions.events import kafka_record
from gatelog.reader.subscriptions.parked import ParkedEvent, kafka_headers
from gatelog.schemas.envelope import Record


async def whole(settings: Identified, pool: postgres.Pool, topic: str, event: ParkedEvent) -> ParkedEvent:
    """Return a parked event with its headers and payload, wherever they are. ``pool``: of the gate's database.

    Raises:
        ParkedWithoutPayloadError: the stream does not hold it any more.
        PostgresUnavailableError: no answer.
        IndexPlaceError: the index is not where the settings say.
    """
    if not event.is_reference:
        return event
    async with opened_source(settings, pool, 1) as source:
        rows = await source.stream(event.stream, event.version, event.version, 1, backward=False)
    found = [Record(*row)._replace(position=event.position) for row in rows]  # it has none before it is indexed
    if not found or str(found[0].id) != event.event_id:
        raise ParkedWithoutPayloadError(topic, event.event_id, event.stream, event.version)
    headers, value = kafka_record(settings.source, found[0])
    return replace(event, headers=kafka_headers(headers), value=value)
