"""What the consumers of a sweep have made of the log, judged from outside while everything goes on."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from gatelog.core.settings import Settings
from gatelog.reader import Reader
from support.projections import Connection, schema_of

PROJECTIONS: Final = ("shared", "ordered")
FOLDER: Final = "SWEEP_FOLDER"  # in the environment of consumers
VERSION: Final = "SWEEP_VERSION"
HANDLED: Final = "handled"  # a file: stream and version of what the subscription has handled, a line each, in order
HEALED: Final = "healed"  # a file: poison up to this number is none any more
POISON: Final = "poison"
LOOK_INTERVAL_S: Final = 0.3


def out_of(settings: Settings) -> str:
    """Name the topic of the transform."""
    return f"{settings.store}-out"


class Event(NamedTuple):
    """What is known of an event everywhere."""

    stream: str
    version: int


class Firsts:
    """Events that came at least once, and for the first time in the order of their streams."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._versions: dict[str, int] = defaultdict(int)
        self.counts: Counter[Event] = Counter()

    def add(self, event: Event) -> None:
        self.counts[event] += 1
        if self.counts[event] == 1:
            assert event.version == self._versions[event.stream] + 1, (
                f"{self._what}: {event} came behind version {self._versions[event.stream]}"
            )
            self._versions[event.stream] = event.version


class Consumed:
    """The log, as the reader tells it, and what each consumer has of it."""

    def __init__(self, settings: Settings, rows: Connection, reader: Reader, folder: Path) -> None:
        self.log: list[Event] = []
        self.may_repeat = False  # the transform: what it has of topics that are no more
        self.app, self.copy = Firsts("subscription"), Firsts("transform")
        self._settings, self._rows, self._reader = settings, rows, reader
        self._handled, self._at = folder / HANDLED, 0
        properties = {"group.id": "judge", "isolation.level": "read_committed", "enable.auto.commit": False}
        self._consumer = Consumer({**settings.kafka_properties, **properties, "log_level": 0})
        out = out_of(settings)
        partitions = self._consumer.list_topics(out, timeout=20).topics[out].partitions
        self._consumer.assign([TopicPartition(out, number, OFFSET_BEGINNING) for number in partitions])

    def close(self) -> None:
        self._consumer.close()

    async def all_have(self, upto: int, timeout_s: float) -> dict[str, float]:
        """Wait until every consumer has everything up to a position; return how long each took.

        Raises:
            AssertionError: one has not, or something is there twice, or out of order.
        """
        began, took = time.monotonic(), dict[str, float]()
        while True:
            await self._read()
            missing = {"log": upto - len(self.log)}
            missing |= {name: await self._missing_in(name, upto) for name in PROJECTIONS}
            for name, found in (("app", self.app), ("copy", self.copy)):
                missing[name] = upto - sum(event in found.counts for event in self.log[:upto])
            now = time.monotonic() - began
            took |= {name: now for name, number in missing.items() if number <= 0 and name not in took}
            if len(took) == len(missing):
                break
            assert now < timeout_s, f"not within {timeout_s:g} s: {missing} are missing of {upto}"
            await asyncio.sleep(LOOK_INTERVAL_S)
        for name in PROJECTIONS:
            await self._judge(name, upto)
        twice = [event for event, number in self.copy.counts.items() if number > 1]
        assert self.may_repeat or not twice, f"copy: twice: {twice[:20]}, {len(twice)} in all"
        return took

    async def _read(self) -> None:
        async for event in self._reader.all(after=len(self.log)):
            assert event.position == len(self.log) + 1
            self.log.append(Event(event.stream, event.version))
        for line in self._handled.read_bytes()[self._at :].splitlines(keepends=True):
            if line.endswith(b"\n"):
                stream, version = line.decode().split()
                self.app.add(Event(stream, int(version)))
                self._at += len(line)
        while messages := await asyncio.to_thread(self._consumer.consume, 1000, 0.1):
            for message in messages:
                if message.error() is None:
                    stream, version = json.loads(message.value() or b"")
                    self.copy.add(Event(stream, version))

    async def _missing_in(self, name: str, upto: int) -> int:
        counted = (
            f'SELECT count(DISTINCT position) FROM "{schema_of(name, self._settings)}".seen WHERE position <= $1'
        )
        return upto - int(await self._rows.fetchval(counted, upto))

    async def _judge(self, name: str, upto: int) -> None:
        """A read model holds the log: each event once, each stream in order, with ``ordered`` all of it."""
        schema = schema_of(name, self._settings)
        async with self._rows.transaction(isolation="repeatable_read", readonly=True):
            rows = await self._rows.fetch(f'SELECT position, stream, version FROM "{schema}".seen ORDER BY nth')
            total = await self._rows.fetchval(f'SELECT coalesce(sum(events), 0) FROM "{schema}".totals')
        positions = [row["position"] for row in rows]
        twice = [position for position, number in Counter(positions).items() if number > 1]
        assert not twice, f"{name}: twice: {sorted(twice)[:20]}, {len(twice)} in all"
        assert total == len(rows), f"{name}: its totals are not its rows'"
        assert name != "ordered" or positions == sorted(positions), f"{name}: out of order"
        firsts = Firsts(name)
        for row in rows:
            event = Event(row["stream"], row["version"])
            firsts.add(event)
            assert row["position"] > len(self.log) or self.log[row["position"] - 1] == event, f"{name}: not the log"
        missing = set(range(1, upto + 1)) - set(positions)
        assert not missing, f"{name}: missing: {sorted(missing)[:20]}, {len(missing)} in all"

    @asynccontextmanager
    async def never_less(self) -> AsyncIterator[None]:
        """Read models are read all the time until the block ends, and what they hold never becomes less."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            if watching.done():
                watching.result()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        rows = await asyncpg.connect(self._settings.dsn)
        counts = dict.fromkeys(PROJECTIONS, 0)
        try:
            while True:
                for name, before in counts.items():
                    schema = schema_of(name, self._settings)
                    counts[name] = await rows.fetchval(f'SELECT count(*) FROM "{schema}".seen')
                    assert counts[name] >= before, f"{name} held {before} events, and now {counts[name]}"
                await asyncio.sleep(LOOK_INTERVAL_S)
        finally:
            await rows.close()
