"""Ticks, without Kafka: while clients append as fast as they can, every event is in exactly one tick, in order."""

import json
import random
import re
import time

import asyncpg
import pytest
from support.clients import Clients, Published
from support.models import Noted

from gatelog.core.errors import RelayFencedError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.producer.relay.ticks import Ticks

SECONDS = 4.0


class Ticker:
    """A relay that publishes to a list."""

    def __init__(self, settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._settings = settings
        self._connection = connection
        self._chance = random.Random(7)
        self._done = 0
        self.ticks = Ticks(connection, settings)
        self.published: list[Published] = []

    async def take_over(self) -> None:
        self.ticks = Ticks(self._connection, self._settings)
        await self.ticks.prepare()
        left = await self.ticks.take_over()
        if left["pending_events"] and left["tick"] == self._done:
            self.ticks.done()

    async def tick(self, events_max: int = 20_000, bytes_max: int = 1 << 26) -> int:
        bounds = {"tick_events_max": events_max, "tick_bytes_max": bytes_max}
        if bounds != self._settings.model_dump(include=set(bounds)):
            self._settings = self._settings.model_copy(update=bounds)
            await self.take_over()
        tick = await self.ticks.next()
        if tick is None:
            return 0
        await self.ticks.fix()
        if self._chance.random() < 0.3:
            await self.take_over()
            again = await self.ticks.next()
            assert again == tick, "a tick that was not done comes again, the same"
        if self._chance.random() < 0.7:
            await self.ticks.prefetch()
        self.ticks.done()
        self._done = tick.number
        self.published += [
            Published(position, row["event_id"], row["stream"], int(row["version"]))
            for position, row in enumerate(tick.rows, tick.first)
        ]
        return len(tick.rows)


@pytest.fixture
async def ticker(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> Ticker:
    ticker = Ticker(settings, connection)
    await ticker.take_over()
    return ticker


async def _slow_down(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Pause after each step in which a tick learns something: whatever can come in between, does."""
    definition = await connection.fetchval("SELECT pg_get_functiondef($1::regproc)", f"{settings.store}.mark")
    slow, steps = re.subn(r"( INTO [^;]*;)", r"\1 PERFORM pg_sleep(0.002);", definition)
    assert steps == 3
    await connection.execute(slow)


@pytest.mark.parametrize("callers", [1, 20])
@pytest.mark.parametrize(("events_max", "slow"), [(3, False), (20_000, False), (20_000, True)])
async def test_every_event_is_in_one_tick(
    settings: Settings,
    producer: Producer,
    ticker: Ticker,
    connection: "asyncpg.Connection[asyncpg.Record]",
    callers: int,
    events_max: int,
    slow: bool,
) -> None:
    if slow:
        await _slow_down(settings, connection)
    clients = Clients(settings, producer)
    async with clients.appending(callers, transactions=3):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await ticker.tick(events_max)
    while await ticker.tick():
        pass
    clients.judge(ticker.published)


async def test_a_tick_is_bounded_in_events_and_bytes(producer: Producer, ticker: Ticker) -> None:
    for number in range(10):
        await producer.append(f"Note-{number}", [Noted(text="x" * 98)] * 2, expected_version=0)
    assert [await ticker.tick(events_max=3) for _ in range(4)] == [3, 3, 3, 3]
    assert [await ticker.tick(bytes_max=450) for _ in range(2)] == [5, 3]
    await producer.append("Note-large", [Noted(text="x" * 10_000)], expected_version=0)
    assert await ticker.tick(bytes_max=450) == 1, "one event, however large"
    assert await ticker.tick() == 0


async def test_no_rows_means_that_nothing_is_due(producer: Producer, ticker: Ticker) -> None:
    """Also when the last tick took exactly what was left of an interval, and more has come since."""
    await producer.append("Note-1", [Noted(text="x")] * 3, expected_version=0)
    assert await ticker.tick(events_max=3) == 3
    await producer.append("Note-1", [Noted(text="x")], expected_version=3)
    assert await ticker.tick(events_max=3) == 1


async def test_a_relay_of_an_older_epoch_is_refused(producer: Producer, ticker: Ticker) -> None:
    older = ticker.ticks
    await producer.append("Note-1", [Noted(text="x")], expected_version=0)
    await ticker.take_over()
    await older.next()
    with pytest.raises(RelayFencedError, match="taken over"):
        await older.fix()
    assert await ticker.tick() == 1


async def test_a_ticks_cost_does_not_grow_while_a_transaction_is_open_elsewhere(
    settings: Settings, producer: Producer, ticker: Ticker, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Counted in pages: what the relay looks at each time must not hide behind its own dead versions."""

    async def pages() -> int:
        look = f"SELECT * FROM {settings.store}.relay, {settings.store}.mark()"
        (plan,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {look}"))
        return int(plan["Plan"]["Shared Hit Blocks"])

    stranger = await asyncpg.connect(settings.dsn)
    async with stranger.transaction(isolation="repeatable_read"):
        await stranger.fetchval("SELECT pg_current_xact_id()")
        before = await pages()
        for version in range(300):
            await producer.append("Note-1", [Noted(text="x")], expected_version=version)
            assert await ticker.tick() == 1
        assert await pages() <= before + 3
    await stranger.close()
