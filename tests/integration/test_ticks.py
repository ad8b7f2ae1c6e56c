"""Ticks, without Kafka: while clients append as fast as they can, every event is in exactly one tick, in order."""

import asyncio
import random
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field

import asyncpg
import pytest
from support.models import Noted

from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.producer import ANY, Producer
from gatelog.schemas import NewEvent

SECONDS = 4.0


class Ticker:
    """A relay that publishes to a list."""

    def __init__(self, settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._sql = queries("gatelog.producer", "relay.sql", settings.store)
        self._connection = connection
        self._done = 0
        self._epoch = 0
        self.published: list[asyncpg.Record] = []

    async def take_over(self) -> None:
        row = await self._connection.fetchrow(self._sql["take_over"])
        assert row is not None
        self._epoch = row["epoch"]

    async def tick(self, events_max: int = 20_000, bytes_max: int = 1 << 26) -> int:
        rows = await self._connection.fetch(self._sql["next_tick"], self._epoch, self._done, events_max, bytes_max)
        if rows:
            again = await self._connection.fetch(
                self._sql["next_tick"], self._epoch, self._done, events_max, bytes_max
            )
            assert rows == again, "a tick that was not done comes again, the same"
            self._done = rows[0]["tick"]
            self.published += rows
        return len(rows)


@pytest.fixture
async def ticker(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> Ticker:
    ticker = Ticker(settings, connection)
    await ticker.take_over()
    return ticker


@dataclass
class Clients:
    """Append until they are told to stop, and keep what was acknowledged."""

    settings: Settings
    producer: Producer
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: list[tuple[float, float, str]] = field(default_factory=list)  # sent, answered, id

    async def caller(self, number: int) -> None:
        nth = 0
        while not self.stop.is_set():
            event, sent = NewEvent(Noted(text="x")), time.monotonic()
            await self.producer.append(f"Note-{number}-{nth % 3}", [event], expected_version=ANY)
            self.acknowledged.append((sent, time.monotonic(), str(event.id)))
            nth += 1

    async def transactions(self, seed: int) -> None:
        """Transactions of the caller's own: some have an xid long before they append, some commit late or never."""
        chance = random.Random(seed)
        own = await asyncpg.connect(self.settings.dsn)
        while not self.stop.is_set():
            transaction = own.transaction()
            await transaction.start()
            if chance.random() < 0.3:
                await own.fetchval("SELECT pg_current_xact_id()")
            event, sent = NewEvent(Noted(text="x")), time.monotonic()
            await self.producer.append(f"Own-{seed}", [event], expected_version=ANY, connection=own)
            await asyncio.sleep(chance.choice([0, 0.001, 0.05]))
            if chance.random() < 0.5:
                await transaction.commit()
                self.acknowledged.append((sent, time.monotonic(), str(event.id)))
            else:
                await transaction.rollback()
        await own.close()


async def _slow_down(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Pause after each step in which a tick learns something: whatever can come in between, does."""
    definition = await connection.fetchval("SELECT pg_get_functiondef($1::regproc)", f"{settings.store}.next_tick")
    slow, steps = re.subn(r"( INTO [^;]*;)", r"\1 PERFORM pg_sleep(0.002);", definition)
    assert steps >= 4
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
    work = [asyncio.create_task(clients.caller(number)) for number in range(callers)]
    work += [asyncio.create_task(clients.transactions(seed)) for seed in range(3)]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        await ticker.tick(events_max)
    clients.stop.set()
    await asyncio.gather(*work)
    while await ticker.tick():
        pass
    published = ticker.published
    assert [row["position"] for row in published] == list(range(1, len(published) + 1))
    positions = {str(row["event_id"]): row["position"] for row in published}
    assert positions.keys() == {event_id for _, _, event_id in clients.acknowledged}, "lost, or never acknowledged"
    versions = defaultdict(list)
    for row in published:
        versions[row["stream"]].append(row["version"])
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    _positions_follow_acknowledgement(clients, positions)


def _positions_follow_acknowledgement(clients: Clients, positions: dict[str, int]) -> None:
    """If A was answered before B was sent, A's position is below B's."""
    by_answer = sorted(clients.acknowledged, key=lambda each: each[1])
    highest, at = 0, 0
    for sent, _, event_id in sorted(clients.acknowledged):
        while at < len(by_answer) and by_answer[at][1] < sent:
            highest = max(highest, positions[by_answer[at][2]])
            at += 1
        assert positions[event_id] > highest


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
    await producer.append("Note-1", [Noted(text="x")], expected_version=0)
    await ticker.take_over()
    await ticker.tick()
    ticker._epoch -= 1
    with pytest.raises(asyncpg.PostgresError, match="taken over"):
        await ticker.tick()
