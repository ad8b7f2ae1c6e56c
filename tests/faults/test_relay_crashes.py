"""Relays that are killed at every point of a tick, and at any moment, again and again."""

import asyncio
import os
import random
import signal
from multiprocessing.context import ForkServerProcess

from support import crashing_relay
from support.trial import busy, frozen, indexed_upto, judge, relay

from gatelog.core.settings import Settings
from gatelog.producer import Producer


async def dead(process: ForkServerProcess) -> None:
    await asyncio.to_thread(process.join, 60)
    assert process.exitcode == -signal.SIGKILL, "it was to die at its point"


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
