"""Postgres moves to an asynchronous standby, which may have lost commits: what a process knew is not used there."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.apart import connected
from support.failover import Pair, pair
from support.models import Noted
from support.pgbouncer import PgBouncer, answers, bouncing, through
from support.projections import at_work, has, keeping, schema_of
from support.running import running
from support.trial import Row
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core import postgres
from gatelog.core.errors import LogMismatchError, PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.local import ports
from gatelog.producer import ANY, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import Event

BURNT = 200  # transactions; the new primary gives their ids again


class LostType(Event):
    """Its registration does not reach the standby."""

    text: str


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
        last = int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))

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


async def test_every_process_finds_the_new_primary_among_its_hosts(settings: Settings, servers: Pair) -> None:
    own = at(settings, servers.dsn)
    await initialise(own)
    projection = keeping("moved", own)
    await projection.prepare(own)
    schema = schema_of("moved", own)
    async with (
        Producer.connect(own) as producer,
        Reader.connect(own) as reader,
        running(Relay(own), OutboxKeeper(own), Indexer(own)),
        at_work(own, projection),
    ):
        for server in (servers.primary, servers.standby):
            done = [await producer.append("Note-1", [Noted(text="a")], expected_version=ANY) for _ in range(10)]
            await reader.indexed(done[-1].event_ids)
            assert await reader.version("Note-1") == done[-1].version
            async with connected(server.dsn("gatelog")) as rows:
                await has(rows, schema, done[-1].version)
            if server is servers.primary:
                await servers.caught_up()
                await servers.fail_over()
        assert done[-1].version == 20


async def test_a_host_that_says_nothing_and_a_standby_are_passed_over(servers: Pair) -> None:
    """A machine that has vanished answers nothing at all: here, a socket that nobody accepts from."""
    with socket.socket() as mute:
        mute.bind((ports.HOST, 0))
        mute.listen(1)
        numbers = (mute.getsockname()[1], servers.standby.port, servers.primary.port)
        hosts = ",".join(f"{ports.HOST}:{number}" for number in numbers)
        for attributes, is_standby in (("", False), ("?target_session_attrs=standby", True)):
            connection = await postgres.connect(f"postgresql://gatelog@{hosts}/gatelog{attributes}", "any", "test")
            try:
                assert await connection.fetchval("SELECT pg_is_in_recovery()") is is_standby
            finally:
                await connection.close()


async def test_a_standby_is_waited_for_until_it_is_promoted(servers: Pair) -> None:
    """The host that is named leads to a standby: whoever writes waits, and goes on when it takes writes."""
    lone = f"postgresql://gatelog@{ports.HOST}:{servers.standby.port}/gatelog"
    with pytest.raises(PostgresUnavailableError, match="standby"):
        await postgres.connect_lent(lone, "any", "test")
    alone = f"{lone}?target_session_attrs=primary"
    with pytest.raises(PostgresUnavailableError):
        await postgres.connect(alone, "any", "test")
    await servers.fail_over()
    for opened in (postgres.connect_lent(lone, "any", "test"), postgres.connect(alone, "any", "test")):
        connection = await opened
        await connection.execute("CREATE TEMPORARY TABLE written ()")
        await connection.close()


async def test_a_schema_whose_registration_was_lost_is_put_back(settings: Settings, servers: Pair) -> None:
    """A program goes on with the ids that it knows: the events that it stores can be read."""
    own = at(settings, servers.dsn)
    await initialise(own)
    async with Producer.connect(own) as producer:
        await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
        await servers.caught_up()
        await servers.cut_off()
        await producer.append("Note-2", [LostType(text="lost")], expected_version=ANY)
        await servers.fail_over()
        await producer.append("Note-3", [LostType(text="new")], expected_version=ANY)
    async with Reader.connect(own) as reader:
        assert [event.data async for event in reader.stream("Note-3")] == [LostType(text="new")]
        assert await reader.version("Note-2") == 0
