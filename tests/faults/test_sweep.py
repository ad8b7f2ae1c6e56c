"""Everything at once: two of every process, small segments that rotate all the time, and faults at random.

The judge stands outside: what was acknowledged is in Kafka and in the index, once, in its place, and nothing else is.
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Literal, Self

import asyncpg
import psutil
import pytest
from support.kafka import records_of
from support.own import store_on
from support.processes import Background, background, environment
from support.waiting import until
from support.writers import Writers

from gatelog.core.settings import Settings
from gatelog.local import LocalServices, ports
from gatelog.local.process import wait_gone
from gatelog.producer import Producer
from gatelog.reader import Reader

RUNS: Final = 2
SMALL: Final = {"outbox_segment_events": 20, "tick_events_max": 20, "outbox_snapshot_age_max_s": 0.0}


@pytest.fixture
async def swept(own: LocalServices) -> Settings:
    """A new store on them."""
    return await store_on(own, **SMALL)


class Faults:
    """What may happen to a store, one at a time; each leaves it so that it can go on."""

    def __init__(self, settings: Settings, own: LocalServices, folder: Path, chance: random.Random) -> None:
        self._own = own
        self._settings = settings
        self._environment = environment(settings, **{f"GATELOG_{n.upper()}": str(v) for n, v in SMALL.items()})
        self._folder = folder
        self._chance = chance
        self._stack = ExitStack()
        self._runs: list[Background] = []
        self._started = 0

    def __enter__(self) -> Self:
        self._runs = [self._start() for _ in range(RUNS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> Background:
        self._started += 1
        log = self._folder / f"run-{self._started}.log"
        return self._stack.enter_context(background(["run", "--json-logs"], self._environment, log))

    async def strike(self) -> str:
        """Let one happen; return its name."""
        faults: dict[Callable[[], Awaitable[None]], int] = {
            self._kill: 6,
            self._freeze: 4,
            self._terminate: 6,
            self._crash_postgres: 2,
            self._crash_kafka: 1,
            self._freeze_kafka: 2,
        }
        (fault,) = self._chance.choices(list(faults), list(faults.values()))
        await fault()
        return fault.__name__.strip("_")

    def check(self) -> None:
        """Nothing has ended by itself: whatever happened passes."""
        for run in self._runs:
            if (code := run.process.poll()) is not None:
                raise AssertionError(f"`gatelog run` ended with {code}:\n{run.log.read_text()[-3000:]}")

    async def _kill(self) -> None:
        number = self._chance.randrange(RUNS)
        self._runs[number].kill()
        self._runs[number] = self._start()

    async def _freeze(self) -> None:
        run = self._chance.choice(self._runs).process
        run.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.choice([0.1, 1, 5]))  # beyond the silence that the others suffer, or not
        run.send_signal(signal.SIGCONT)

    async def _terminate(self) -> None:
        connection = await asyncpg.connect(self._settings.dsn)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'gatelog%' AND random() < $1",
            self._chance.choice([0.2, 0.6, 1.0]),
        )
        await connection.close()

    async def _crash_postgres(self) -> None:
        await self._crash("postgres")

    async def _crash_kafka(self) -> None:
        await self._crash("kafka")

    async def _freeze_kafka(self) -> None:
        process, _ = self._server("kafka")
        process.suspend()
        await asyncio.sleep(self._chance.choice([0.3, 2]))
        process.resume()

    async def _crash(self, name: Literal["postgres", "kafka"]) -> None:
        process, port = self._server(name)
        process.kill()
        assert await asyncio.to_thread(wait_gone, process, 10.0)

        async def is_free() -> bool:
            return ports.is_free(port)

        await until(is_free, "the port is free for the next one")
        await asyncio.to_thread(self._own.up, only=name)

    def _server(self, name: str) -> tuple[psutil.Process, int]:
        (server,) = [service for service in self._own.status() if service.name == name]
        assert server.pid is not None
        assert server.port is not None
        return psutil.Process(server.pid), server.port


class Standing:
    """Where the store stands, asked whatever happens to Postgres."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def number(self, statement: str) -> int:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(self._settings.dsn)
            try:
                return int(await connection.fetchval(statement.replace("@store", self._settings.store)))
            finally:
                await connection.close()
        return -1

    async def indexed_upto(self, position: int) -> None:
        async def is_there() -> bool:
            return await self.number("SELECT position FROM @store.index_frontier") >= position

        await until(is_there, f"position {position} is indexed", timeout=150)


@pytest.mark.timeout(3600)
async def test_nothing_is_lost_doubled_or_reordered_whatever_happens(
    swept: Settings, own: LocalServices, chance: random.Random, long: bool, tmp_path: Path
) -> None:
    standing, counts, began = Standing(swept), dict[str, int](), time.monotonic()
    async with Producer.connect(swept) as producer, Reader.connect(swept) as reader:
        writers = Writers(producer, chance, pause_s=0.1)
        with Faults(swept, own, tmp_path, chance) as faults:
            async with writers.writing(3):
                for _ in range(200 if long else 5):
                    fault = await faults.strike()
                    counts[fault] = counts.get(fault, 0) + 1
                    await standing.indexed_upto(len(writers.acknowledged))  # all that was acknowledged until now
                    faults.check()
            await standing.indexed_upto(len(writers.acknowledged))
            rotations = await standing.number("SELECT last_value FROM @store.outbox_emptied")
        await writers.judge(reader)
        print(
            f"{counts}, {len(writers.acknowledged)} events, {rotations} rotations, {time.monotonic() - began:.0f} s"
        )
    records = await asyncio.to_thread(records_of, swept)
    places = [(record.topic, record.partition, record.position) for record in records]
    assert places == sorted(places), "each partition is in order of positions"
    assert sorted(record.position for record in records) == list(range(1, len(writers.acknowledged) + 1))
    in_order = sorted(records, key=lambda record: record.position)
    assert {(r.key, int(r.headers["ce_streamversion"])): r.event_id for r in records} == writers.acknowledged
    for stream in {record.key for record in records}:
        versions = [int(record.headers["ce_streamversion"]) for record in in_order if record.key == stream]
        assert versions == list(range(1, len(versions) + 1)), stream
