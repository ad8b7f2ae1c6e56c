"""Several members of every kind of consumer, and faults at random, while events are appended.

The judge stands outside: what was acknowledged is in every read model once and in order; the subscription has handled
each event, in the order of its stream; readers of a read model never see less than before.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import asyncpg
import pytest
from confluent_kafka.cimpl import NewTopic
from support.consumed import HANDLED, HEALED, POISON, Consumed, out_of
from support.consumer_faults import SMALL, Faults
from support.models import Noted
from support.own import store_on
from support.waiting import until
from support.writers import Writers

from gatelog.core import kafka
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.producer import ANY, Producer, StreamAppend
from gatelog.reader import Reader
from gatelog.schemas import NewEvent

BOUND_S: Final = 180.0  # for what was acknowledged, to have been handled by everybody, on a machine that others use
REPLAY_INTERVAL_S: Final = 5.0
EVENTS_MIN: Final = 20  # more, in each round
STREAMS: Final = 30  # of a category
CATEGORIES_MAX: Final = 12


@pytest.fixture
async def swept(own: LocalServices) -> Settings:
    """A new store on servers of its own."""
    settings = await store_on(own, **SMALL)
    made = kafka.admin(settings.kafka_properties)
    for future in made.create_topics([NewTopic(out_of(settings), num_partitions=2)]).values():
        await asyncio.to_thread(future.result, 30)
    return settings


class Spread(Writers):
    """Appends to more and more categories, some events to one stream or one to each of many; some are poison."""

    categories: int = 1
    poison: int = 0

    @asynccontextmanager
    async def spreading(self) -> AsyncIterator[None]:
        """Append until the block ends."""
        task = asyncio.create_task(self._spread())
        try:
            yield
        finally:
            self.stop.set()
            await task

    async def _spread(self) -> None:
        while not self.stop.is_set():
            many = self.chance.random() < 0.05
            streams = {self._stream() for _ in range(self.chance.randint(5, 20) if many else 1)}
            await self._until_answered([StreamAppend(stream, self._notes(many), ANY) for stream in streams])

    def _stream(self) -> str:
        return f"C{self.chance.randrange(self.categories)}-{self.chance.randrange(STREAMS)}"

    def _notes(self, one: bool) -> list[NewEvent]:
        if not one and self.chance.random() < 0.02:
            self.poison += 1
            return [NewEvent(Noted(text=f"{POISON} {self.poison}")), NewEvent(Noted(text="behind"))]
        return [NewEvent(Noted(text="x")) for _ in range(1 if one else self.chance.randint(1, 3))]


async def settled(faults: Faults, consumed: Consumed, writers: Spread, folder: Path) -> dict[str, float]:
    """Wait until everybody has what is acknowledged now; poison that was written until now is none any more."""
    more = len(writers.acknowledged) + EVENTS_MIN

    async def are_appended() -> bool:
        return len(writers.acknowledged) >= more or writers.stop.is_set()

    await until(are_appended, f"{EVENTS_MIN} events are appended")
    (folder / HEALED).write_text(str(writers.poison))

    async def replay() -> None:
        while True:
            await faults.replay()
            await asyncio.sleep(REPLAY_INTERVAL_S)

    replaying = asyncio.create_task(replay())
    try:
        position, offsets = await faults.indexed()
        took = await consumed.all_have(max(position, len(writers.acknowledged)), BOUND_S)
        faults.handled = offsets
        return took
    finally:
        if replaying.done():
            replaying.result()
        replaying.cancel()
        with suppress(asyncio.CancelledError):
            await replaying


@pytest.mark.timeout(4 * 3600)
async def test_every_consumer_keeps_up_whatever_happens(
    swept: Settings, own: LocalServices, chance: random.Random, long: bool, tmp_path: Path
) -> None:
    (tmp_path / HEALED).write_text("0")
    (tmp_path / HANDLED).touch()
    faults = Faults(swept, own, tmp_path, random.Random(chance.random()))
    began = time.monotonic()
    rows = await asyncpg.connect(swept.dsn)
    async with Producer.connect(swept) as producer, Reader.connect(swept) as reader:
        writers = Spread(producer, chance, pause_s=0.15)
        await faults.prepare()
        with closing(Consumed(swept, rows, reader, tmp_path)) as consumed:
            async with faults.fleet.running():
                async with writers.spreading(), consumed.never_less():
                    print(await settled(faults, consumed, writers, tmp_path))
                    for number in range(1, 101 if long else 4):
                        print(f"{number}:", end=" ")
                        fault = await faults.strike()
                        assert not faults.fleet.raw, "\n".join(faults.fleet.raw)
                        writers.categories += chance.random() < 0.3 and writers.categories < CATEGORIES_MAX
                        consumed.may_repeat = faults.are_remade
                        took = await settled(faults, consumed, writers, tmp_path)
                        slow = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items() if seconds > 10)
                        so_far = f"{len(writers.acknowledged)} events, {time.monotonic() - began:.0f} s"
                        print(f"{fault}. {so_far}{f', waited for {slow}' if slow else ''}", flush=True)
                await settled(faults, consumed, writers, tmp_path)
            assert len(consumed.log) == len(writers.acknowledged)
        await writers.judge(reader)
    await rows.close()
    print(f"{len(writers.acknowledged)} events, {time.monotonic() - began:.0f} s")
    print("\n".join(f"{number} x {ended}" for ended, number in faults.fleet.ended.items()))
    assert not faults.fleet.raw, "\n".join(faults.fleet.raw)
    assert not faults.surprises
