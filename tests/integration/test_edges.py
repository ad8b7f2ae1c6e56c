"""Whatever passes the gate is published, indexed and read back equal; the rest is refused before anything is sent."""

import json
from collections import defaultdict

import asyncpg
import pytest
from hypothesis import Phase, given
from hypothesis import seed as seeded
from hypothesis import settings as drawn_with
from support.edges import ANYTHING, Given, each_edge, same
from support.subscribing import consuming, holds

from gatelog.core.errors import EventIdReusedError, InvalidEventError, InvalidInputError, InvalidStreamIdError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.reader import Reader, Subscription
from gatelog.schemas import RecordedEvent

REFUSALS = (EventIdReusedError, InvalidEventError, InvalidInputError, InvalidStreamIdError)


def _drawn(number: int, seed: int) -> list[Given]:
    """Draw as many examples; none is tried by itself, so that one pipeline is enough for all of them."""
    found: list[Given] = []

    @seeded(seed)
    @drawn_with(max_examples=number, database=None, phases=[Phase.generate])
    @given(ANYTHING)
    def collect(each: Given) -> None:
        found.append(each)

    collect()
    return found


class _Store:
    """What was accepted, by stream: what is expected of every way to read it."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.accepted: dict[str, list[Given]] = defaultdict(list)
        self.refused = 0

    async def give(self, one: Given) -> None:
        try:
            if one.recorded_at is None:
                known = (await self._producer.append(one.stream, [one.event], expected_version=ANY)).known
            else:
                version = len(self.accepted[one.stream]) + 1
                history = HistoricEvent(one.stream, version, one.event, one.recorded_at)
                known = (await self._producer.load([history])).known > 0
        except REFUSALS:
            self.refused += 1
        else:
            self.accepted[one.stream] += [] if known else [one]

    def judge(self, events: list[RecordedEvent]) -> None:
        """Every event is there, as it was given."""
        found = defaultdict(list)
        for event in events:
            found[event.stream].append(event)
        assert found.keys() == {stream for stream, those in self.accepted.items() if those}
        for stream, own in found.items():
            assert [event.version for event in own] == list(range(1, len(own) + 1))
            for event, one in zip(own, self.accepted[stream], strict=True):
                new = one.event
                assert (event.id, event.type) == (new.id, new.data.event_type)
                assert (event.correlation_id, event.causation_id) == (new.correlation_id, new.causation_id), one
                assert event.traceparent == new.traceparent, one
                assert same(event.metadata, dict(new.metadata or {})), one
                assert event.metadata_json is None or new.metadata is not None, one
                assert same(event.data, new.data), one
                assert one.recorded_at is None or event.recorded_at == one.recorded_at, one


async def test_what_passes_the_gate_is_read_back_equal_in_every_way(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    pipeline: None,
    connection: "asyncpg.Connection[asyncpg.Record]",
    request: pytest.FixtureRequest,
    long: bool,
) -> None:
    number, seed = (5_000, request.config.getoption("--seed") or 0) if long else (150, 1)
    store = _Store(producer)
    for one in [*each_edge(), *_drawn(number, seed)]:
        await store.give(one)
    accepted = [one for those in store.accepted.values() for one in those]
    assert min(len(accepted), store.refused) > 50, "both happen"

    streams = [stream for stream, those in store.accepted.items() if those]
    store.judge([event for stream in streams for event in await _read(reader.stream(stream))])
    await reader.indexed([one.event.id for one in accepted])
    store.judge([event for stream in streams for event in await _read(reader.stream(stream))])
    store.judge(await _read(reader.all()))
    categories = {stream.partition("-")[0] for stream in streams}
    store.judge([event for category in categories for event in await _read(reader.category(category))])

    rows = await connection.fetch(f"SELECT * FROM {settings.store}.event_log ORDER BY position")
    assert [row["event_id"] for row in rows] == [event.id async for event in reader.all()]
    metadata = {one.event.id: one.event.metadata for one in accepted}
    for row in rows:
        assert row["data"] is not None, row
        given = json.dumps(metadata[row["event_id"]])
        assert _in_floats(row["metadata"] or "null") == _in_floats(given), row
    assert await connection.fetchval(f"SELECT count(*) FROM {settings.store}.unreadable_records") == 0
    store.judge(await _subscribed(settings, len(accepted)))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("recorded_at", "'infinity'"),
        ("recorded_at", "'-infinity'"),
        ("recorded_at", "'9999-12-31'"),
        ("stream", "'-1'"),
    ],
)
async def test_the_outbox_takes_nothing_that_would_stop_the_relay(
    settings: Settings,
    producer: Producer,
    connection: "asyncpg.Connection[asyncpg.Record]",
    column: str,
    value: str,
) -> None:
    """Whoever writes it: who is past the checks of the library is not past those of the table."""
    given = {"stream": "'C-1'", "recorded_at": "now()", column: value}
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(
            f"INSERT INTO {settings.store}.outbox_0 (stream, recorded_at, version, event_id, type, schema_id, data) "
            f"VALUES ({given['stream']}, {given['recorded_at']}, 1, gen_random_uuid(), 'T', 1, '')"
        )


def _in_floats(text: str) -> object:
    """As jsonb has it: 1e16 is a whole number there."""
    return json.loads(text, parse_int=float)


async def _read(events: object) -> list[RecordedEvent]:
    return [event async for event in events]  # type: ignore[attr-defined] # any of the reader's ways


async def _subscribed(settings: Settings, number: int) -> list[RecordedEvent]:
    """What a subscription hands over; of a stream in order."""
    seen: list[RecordedEvent] = []
    subscription = Subscription("edges")

    @subscription.on()
    async def keep(event: RecordedEvent) -> None:
        seen.append(event)

    async with consuming(subscription, settings):
        await holds(lambda: len(seen) == number, "all is handled")
    return seen
