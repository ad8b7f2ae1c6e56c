"""A trial of the relay: clients append without a break, something happens to it, and in the end all is read back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.context import ForkServerProcess

import asyncpg
import psutil

from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from support import crashing_relay
from support.clients import Clients, Published
from support.kafka import records_of
from support.running import running
from support.waiting import until


@contextmanager
def relay(
    settings: Settings,
    point: str | None = None,
    nth: int = 1,
    number: signal.Signals = signal.SIGKILL,
    victim: int | None = None,
) -> Iterator[ForkServerProcess]:
    """Run a relay that does not outlive the block; see ``crashing_relay.start``."""
    process = crashing_relay.start(settings, point, nth, number, victim)
    try:
        yield process
    finally:
        process.kill()
        process.join()


@asynccontextmanager
async def busy(
    settings: Settings, producer: Producer, callers: int = 5, transactions: int = 2
) -> AsyncIterator[Clients]:
    """Append, index, and empty the outbox meanwhile."""
    clients = Clients(settings, producer, pause_s=0.01)
    rotating = settings.model_copy(update={"outbox_segment_events": 10, "outbox_snapshot_age_max_s": 0.0})
    async with running(Indexer(settings), OutboxKeeper(rotating)), clients.appending(callers, transactions):
        yield clients


async def indexed_upto(settings: Settings, position: int) -> None:
    """Wait until a position, and all before it, has gone the whole way."""
    async with Reader.connect(settings) as reader:

        async def is_indexed() -> bool:
            return await reader.frontier() >= position

        await until(is_indexed, f"position {position} is indexed")


async def judge(settings: Settings, clients: Clients) -> None:
    """Let a relay finish, and read everything back from Kafka."""
    async with running(Relay(settings), Indexer(settings)):
        await indexed_upto(settings, len(clients.acknowledged))
    records = await asyncio.to_thread(records_of, settings)
    places = [(record.topic, record.partition, record.position) for record in records]
    assert places == sorted(places), "each partition is in order of positions"
    published = [Published(r.position, str(r.event_id), r.key, int(r.headers["ce_streamversion"])) for r in records]
    clients.judge(sorted(published))


async def frozen(process: ForkServerProcess) -> None:
    """Wait until a relay has stopped itself."""

    async def is_stopped() -> bool:
        assert process.pid is not None
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

    await until(is_stopped, "it was to stop at its point")


async def terminate(settings: Settings) -> None:
    """End the session of the active relay: its lock goes with it."""
    connection = await asyncpg.connect(settings.dsn)
    try:
        await connection.execute(f"SELECT pg_terminate_backend(pid) FROM {settings.store}.relay_lease")
    finally:
        await connection.close()


def wake(process: ForkServerProcess) -> None:
    """Let a relay that has stopped itself go on."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGCONT)


class Row:
    """The relay's row in Postgres, seen from outside."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def position(self) -> int:
        """Up to where Postgres takes events for published."""
        return int(await self._value("position"))

    async def epoch(self) -> int:
        """How often a relay has taken over."""
        return int(await self._value("epoch"))

    async def moves(self, events: int = 1, timeout_s: float = 60.0) -> None:
        """Wait until so many more events are published."""
        wanted = await self.position() + events

        async def is_there() -> bool:
            return await self.position() >= wanted

        await until(is_there, f"the relay publishes up to {wanted}", timeout_s)

    async def taken_over_since(self, epoch: int) -> None:
        """Wait until a relay, the same or another, has taken over."""

        async def is_later() -> bool:
            return await self.epoch() > epoch

        await until(is_later, f"a relay takes over after epoch {epoch}")

    async def _value(self, column: str) -> int:
        connection = await asyncpg.connect(self._settings.dsn)
        try:
            return int(await connection.fetchval(f"SELECT {column} FROM {self._settings.store}.relay"))
        finally:
            await connection.close()
