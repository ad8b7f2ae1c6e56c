"""Clients that append without a break, and what they were told: the judge of relays that die."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import asyncpg

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.schemas import NewEvent
from support.models import Noted


class Published(NamedTuple):
    """A published event, in whatever form it was seen."""

    position: int
    event_id: str
    stream: str
    version: int


@dataclass
class Clients:
    """Append until they are told to stop, and keep what was acknowledged."""

    settings: Settings
    producer: Producer
    pause_s: float = 0.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: list[tuple[float, float, str]] = field(default_factory=list)  # sent, answered, id

    @asynccontextmanager
    async def appending(self, callers: int, transactions: int) -> AsyncIterator[None]:
        """Append until the block ends."""
        work = [asyncio.create_task(self._caller(number)) for number in range(callers)]
        work += [asyncio.create_task(self._transactions(seed)) for seed in range(transactions)]
        try:
            yield
        finally:
            self.stop.set()
            await asyncio.gather(*work)

    async def _caller(self, number: int) -> None:
        nth = 0
        while not self.stop.is_set():
            event, sent = NewEvent(Noted(text="x")), time.monotonic()
            await self.producer.append(f"Note-{number}-{nth % 3}", [event], expected_version=ANY)
            self.acknowledged.append((sent, time.monotonic(), str(event.id)))
            nth += 1
            await asyncio.sleep(self.pause_s)

    async def _transactions(self, seed: int) -> None:
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

    def judge(self, published: Sequence[Published]) -> None:
        """Every acknowledged event is published once, in the order that was promised; nothing else is.

        ``published`` is in order of positions.
        """
        assert [event.position for event in published] == list(range(1, len(published) + 1))
        positions = {event.event_id: event.position for event in published}
        assert len(positions) == len(published), "an event is doubled"
        acknowledged = {event_id for _, _, event_id in self.acknowledged}
        assert positions.keys() - acknowledged == set(), "published, and never acknowledged"
        assert acknowledged - positions.keys() == set(), "lost"
        versions = defaultdict(list)
        for event in published:
            versions[event.stream].append(event.version)
        assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
        self._positions_follow_acknowledgement(positions)

    def _positions_follow_acknowledgement(self, positions: dict[str, int]) -> None:
        """If A was answered before B was sent, A's position is below B's."""
        by_answer = sorted(self.acknowledged, key=lambda each: each[1])
        highest, at = 0, 0
        for sent, _, event_id in sorted(self.acknowledged):
            while at < len(by_answer) and by_answer[at][1] < sent:
                highest = max(highest, positions[by_answer[at][2]])
                at += 1
            assert positions[event_id] > highest
