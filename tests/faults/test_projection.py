"""Members of a projection that are killed and frozen at every point of a batch: each event is in the model once."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from support.crashing_projection import POINTS, dead, frozen, member
from support.projections import Connection, fill, has, keeping, positions, schema_of

from gatelog.core.settings import Settings
from gatelog.producer import Producer

Order = Literal["partition", "total"]
SCHEMA = "crashing"


@asynccontextmanager
async def appending(producer: Producer) -> AsyncIterator[list[int]]:
    """Append without a break; the list ends with the number of events."""
    done: list[int] = [await fill(producer, 6)]
    stop = asyncio.Event()

    async def append() -> None:
        while not stop.is_set():
            done[0] += await fill(producer, 3)
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as work:
        work.create_task(append())
        try:
            yield done
        finally:
            stop.set()


async def judge(rows: Connection, settings: Settings, events: int, order: Order) -> None:
    schema = schema_of(SCHEMA, settings)
    await has(rows, schema, events)
    found = await positions(rows, schema)
    assert sorted(found) == list(range(1, events + 1)), "each event once"
    assert order == "partition" or found == sorted(found)
    rows_of = await rows.fetch(f'SELECT version FROM "{schema}".seen ORDER BY stream, nth')
    in_order = await rows.fetch(f'SELECT version FROM "{schema}".seen ORDER BY stream, version')
    assert rows_of == in_order, "each stream in order"
    assert await rows.fetchval(f'SELECT sum(events) FROM "{schema}".totals') == events


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Settings in which a member that is dead is given up as soon as brokers allow."""
    return settings.model_copy(update={"subscription_protocol": "classic", "subscription_session_timeout_s": 6.0})


@pytest.mark.parametrize("order", ["total", "partition"])
async def test_killed_at_every_point(
    patient: Settings,
    producer: Producer,
    pipeline: None,
    rows: Connection,
    chance: random.Random,
    long: bool,
    order: Order,
) -> None:
    await keeping(SCHEMA, patient, order=order).prepare(patient)
    rounds = 75 if long else 1
    points = chance.sample(POINTS, len(POINTS)) if order == "total" or long else ["written"]
    async with appending(producer) as done:
        for _ in range(rounds):
            for point in points:
                with member(patient, order, "victim", point, chance.randint(1, 4)) as process:
                    await dead(process)
    with member(patient, order, "last"):
        await judge(rows, patient, done[0], order)


@pytest.mark.parametrize("order", ["total", "partition"])
async def test_frozen_until_another_has_taken_over_and_then_awake(
    patient: Settings,
    producer: Producer,
    pipeline: None,
    rows: Connection,
    long: bool,
    order: Order,
) -> None:
    """faults.md row 28: what it had in hand is refused, in whatever state of its transaction it was."""
    await keeping(SCHEMA, patient, order=order).prepare(patient)
    schema = schema_of(SCHEMA, patient)
    points = (
        POINTS[:3] if long else ["batch" if order == "total" else "written"]
    )  # outside and inside its transaction
    async with appending(producer) as done:
        for point in points:
            with member(patient, order, "zombie", point, 3, signal.SIGSTOP) as zombie:
                await frozen(zombie)
                with member(patient, order, "heir"):
                    await has(rows, schema, done[0] + 10)
                zombie.terminate()  # it hears that, and whatever else it had to do, when it is awake
                assert zombie.pid is not None
                os.kill(zombie.pid, signal.SIGCONT)  # nobody holds a lock that would stop it
                await asyncio.to_thread(zombie.join, 60)
                assert zombie.exitcode == 0
    with member(patient, order, "last"):
        await judge(rows, patient, done[0], order)
