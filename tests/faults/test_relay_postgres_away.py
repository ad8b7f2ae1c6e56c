"""The relay's connections end, with its lock, while a Kafka transaction is open; or Postgres as a whole restarts."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.trial import Row, busy, frozen, judge, relay, terminate, wake

from gatelog.console.store import initialise
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.producer import Producer


async def test_the_session_with_the_lock_is_ended_again_and_again(
    settings: Settings, producer: Producer, chance: random.Random, long: bool
) -> None:
    """Two relays: whichever gets the lock next finishes the tick that was under way."""
    row = Row(settings)
    async with busy(settings, producer) as clients:
        with relay(settings) as one, relay(settings) as other:
            for _ in range(200 if long else 10):
                await row.moves(chance.randint(1, 30))
                epoch = await row.epoch()
                await terminate(settings)
                await row.taken_over_since(epoch)
            await row.moves(50)
            assert (one.exitcode, other.exitcode) == (None, None), "both were to go on by themselves"
    await judge(settings, clients)


@pytest.mark.parametrize("with_standby", [False, True], ids=["alone", "with a standby"])
async def test_the_session_is_ended_while_a_kafka_transaction_is_open(
    settings: Settings, producer: Producer, long: bool, with_standby: bool
) -> None:
    """Frozen before it commits, the relay wakes up without its lock: it finishes the tick, or another one does."""
    row = Row(settings)
    async with busy(settings, producer) as clients:
        for _ in range(30 if long else 1):
            with relay(settings, "commit", 3, signal.SIGSTOP) as process:
                await frozen(process)
                epoch = await row.epoch()
                await terminate(settings)
                if with_standby:
                    with relay(settings):
                        await row.taken_over_since(epoch)
                        await row.moves(50)
                        wake(process)
                        await row.moves(50)
                else:
                    wake(process)
                    await row.taken_over_since(epoch)
                    await row.moves(50)
                assert process.exitcode is None, "it was to go on by itself"
    await judge(settings, clients)


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[LocalServices]:
    """A Postgres that may be restarted: the shared one has other users."""
    services = LocalServices(tmp_path / "services")
    yield services
    await asyncio.to_thread(services.destroy)


async def test_postgres_restarts(
    settings: Settings, own_postgres: LocalServices, chance: random.Random, long: bool
) -> None:
    """In order, and killed: nothing that was acknowledged before is lost, nothing is published twice after."""
    dsn = (await asyncio.to_thread(own_postgres.up, only="postgres")).postgres_dsn
    own = settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})
    await initialise(own)
    row = Row(own)
    async with Producer.connect(own) as producer, busy(own, producer, transactions=0) as clients:
        with relay(own) as process:
            for end in (stopped, killed) * (10 if long else 1):
                await row.moves(chance.randint(1, 100))
                await end(own_postgres)
                await asyncio.to_thread(own_postgres.up, only="postgres")
            await row.moves(100)
            assert process.exitcode is None, "it was to go on by itself"
    await judge(own, clients)


async def stopped(services: LocalServices) -> None:
    await asyncio.to_thread(services.down, only="postgres")


async def killed(services: LocalServices) -> None:
    (pid,) = (status.pid for status in services.status() if status.name == "postgres")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
