"""Relays that are killed at every point of a tick, and at any moment, again and again."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.context import ForkServerProcess

import psutil
from support import crashing_relay
from support.clients import Clients, Published
from support.kafka import records_of
from support.running import running
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


@contextmanager
def relay(
    settings: Settings, point: str | None = None, nth: int = 1, number: signal.Signals = signal.SIGKILL
) -> Iterator[ForkServerProcess]:
    """Run a relay that does not outlive the block."""
    process = crashing_relay.start(settings, point, nth, number)
    try:
        yield process
    finally:
        process.kill()
        process.join()


async def dead(process: ForkServerProcess) -> None:
    await asyncio.to_thread(process.join, 60)
    assert process.exitcode == -signal.SIGKILL, "it was to die at its point"


async def frozen(process: ForkServerProcess) -> None:
    async def is_stopped() -> bool:
        assert process.pid is not None
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

    await until(is_stopped, "it was to stop at its point")


async def indexed_upto(settings: Settings, position: int) -> None:
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


@asynccontextmanager
async def busy(settings: Settings, producer: Producer) -> AsyncIterator[Clients]:
    """Append, index, and empty the outbox meanwhile."""
    clients = Clients(settings, producer, pause_s=0.01)
    async with running(Indexer(settings), OutboxKeeper(settings)), clients.appending(callers=5, transactions=2):
        yield clients


async def test_killed_at_every_point(
    settings: Settings, producer: Producer, chance: random.Random, long: bool
) -> None:
    async with busy(settings, producer) as clients:
        for _ in range(30 if long else 2):
            for point in chance.sample(crashing_relay.POINTS, len(crashing_relay.POINTS)):
                nth = (
                    chance.randint(1, 200) if point == "produce" else 1 if "check" in point else chance.randint(1, 10)
                )
                with relay(settings, point, nth) as process:
                    await dead(process)
    await judge(settings, clients)


async def test_killed_at_any_moment_with_others_standing_by(
    settings: Settings, producer: Producer, chance: random.Random, long: bool
) -> None:
    async with busy(settings, producer) as clients:
        for _ in range(200 if long else 15):
            with relay(settings), relay(settings) as process:
                await asyncio.sleep(chance.uniform(0, 1))  # the moment is what is random here
                process.kill()
    await judge(settings, clients)


async def test_frozen_at_every_point_and_awake_again_after_another_took_over(
    settings: Settings, producer: Producer, chance: random.Random, long: bool
) -> None:
    points = chance.sample(crashing_relay.POINTS, len(crashing_relay.POINTS))
    async with busy(settings, producer) as clients:
        for point in points * 5 if long else ("commit", "produce", "fix"):
            with relay(settings, point, 1 if "check" in point else 3, signal.SIGSTOP) as zombie:
                await frozen(zombie)
                with relay(settings):
                    await indexed_upto(settings, len(clients.acknowledged))
                    zombie.terminate()  # it hears that, and whatever else it had to do, when it is awake
                    assert zombie.pid is not None
                    os.kill(zombie.pid, signal.SIGCONT)
                    await asyncio.to_thread(zombie.join, 60)
                    assert zombie.exitcode == 0
    await judge(settings, clients)
