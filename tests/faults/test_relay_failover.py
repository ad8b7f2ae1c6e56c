"""Postgres moves to an asynchronous standby, which may have lost commits: what a process knew is not used there."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.apart import connected
from support.failover import Pair, pair
from support.models import Noted
from support.pgbouncer import PgBouncer, answers, bouncing, through
from support.trial import Row
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.errors import LogMismatchError
from gatelog.core.settings import Settings
from gatelog.local import ports
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay

BURNT = 200  # transactions; the new primary gives their ids again


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Pair]:
    async with pair(tmp_path / "servers") as made:
        yield made


def at(settings: Settings, dsn: str) -> Settings:
    return settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def append(settings: Settings, events: int) -> None:
    async with Producer.connect(settings) as producer:
        for _ in range(events):
            await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)


async def test_a_pooled_relay_lives_through_a_failover_that_lost_commits(settings: Settings, servers: Pair) -> None:
    """It lost transactions only that the relay had seen pass: it looks again, and publishes what is new there."""
    before = at(settings, servers.primary.dsn("gatelog"))
    after = at(settings, servers.standby.dsn("gatelog"))
    await initialise(before)
    stop = asyncio.Event()
    with bouncing(before, "transaction") as bouncer:
        pooled = through(before, bouncer)
        await answers(pooled)
        relay = asyncio.create_task(Relay(pooled).run(stop))
        try:
            await append(before, 5)
            await published(before, 5)
            await servers.caught_up()
            await servers.cut_off()
            await burn(before)
            await move(servers, bouncer)
            await append(after, 20)
            await published(after, 25)
            assert not relay.done()
        finally:
            stop.set()
            await relay


async def test_a_pooled_relay_stops_when_a_failover_lost_what_was_published(
    settings: Settings, servers: Pair
) -> None:
    before = at(settings, servers.primary.dsn("gatelog"))
    await initialise(before)
    with bouncing(before, "transaction") as bouncer:
        pooled = through(before, bouncer)
        await answers(pooled)
        relay = asyncio.create_task(Relay(pooled).run(asyncio.Event()))
        await append(before, 5)
        await published(before, 5)
        await servers.caught_up()
        await servers.cut_off()
        await append(before, 5)
        await published(before, 10)
        await move(servers, bouncer)
        with pytest.raises(LogMismatchError, match="Kafka holds positions up to 10"):
            await asyncio.wait_for(relay, 60)


async def published(settings: Settings, position: int) -> None:
    row = Row(settings)

    async def is_there() -> bool:
        return await row.position() >= position

    await until(is_there, f"position {position} is published")


async def burn(settings: Settings) -> None:
    """Use transaction ids up, and let the relay look around after that: each of its looks uses one."""
    async with connected(settings.dsn) as connection:
        for _ in range(BURNT):
            await connection.execute("SELECT pg_current_xact_id()")
        last = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")

        async def has_looked() -> bool:
            now = await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            return int(now) > last + 5

        await until(has_looked, "the relay has looked around")


async def move(servers: Pair, bouncer: PgBouncer) -> None:
    """As a failover behind a pooler goes: its clients notice a pause."""
    await bouncer.command("PAUSE")
    await servers.fail_over()
    bouncer.lead_to(ports.HOST, servers.standby.port)
    await bouncer.command("RELOAD", "RESUME")
