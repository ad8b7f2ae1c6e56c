"""A relay behind a real PgBouncer: in transaction mode it says so, polls, and leads by a lease."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager

import asyncpg
import pytest
from support.pgbouncer import answers, pooled
from support.running import running
from support.trial import Row, busy, judge, relay

from gatelog.console.store import initialise
from gatelog.core.errors import SettingsError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.producer.relay.relay import SILENCE_MAX_S
from gatelog.reader import Reader


async def test_transaction_mode_is_said_and_the_relay_polls(
    settings: Settings, producer: Producer, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two relays, one killed, one woken up too late; the sessions of the pool stay as they were."""
    with pooled(settings, "transaction") as through:
        await answers(through)
        row = Row(settings)
        async with busy(settings, producer) as clients:
            with relay(through) as one, relay(through) as other:
                await row.moves(50)
                epoch = await row.epoch()
                leading, standing = (one, other) if await holder(settings, one.pid) else (other, one)
                leading.kill()
                await row.taken_over_since(epoch)
                await row.moves(50)
                assert standing.exitcode is None
            async with running(Relay(through)):
                await row.moves(20)
            assert "relay.pooled" in capfd.readouterr().out
        await judge(settings, clients)
        async with asyncpg.create_pool(through.dsn, min_size=5, max_size=5, statement_cache_size=0) as pool:
            for name, value in (("enable_seqscan", "on"), ("lock_timeout", "0")):
                found = await asyncio.gather(*[pool.fetchval(f"SHOW {name}") for _ in range(5)])
                assert set(found) == {value}
            left = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {OF_RELAY.format(settings.store)}"
            assert await pool.fetchval(left) == 0


async def test_a_relay_with_a_session_takes_the_lead_from_one_without(settings: Settings, producer: Producer) -> None:
    with pooled(settings, "transaction") as through:
        await answers(through)
        row = Row(settings)
        async with busy(settings, producer) as clients:
            with relay(through) as without:
                await row.moves(20)
                epoch = await row.epoch()
                with relay(settings) as direct:
                    await row.taken_over_since(epoch)
                    await row.moves(50)
                    assert await holder(settings, direct.pid)
                    assert (without.exitcode, direct.exitcode) == (None, None)
                await row.moves(20)  # the one without a session leads again
                assert await holder(settings, without.pid)
        await judge(settings, clients)


OF_RELAY = (
    "((classid::bigint << 32) | objid::bigint) = hashtextextended('{}:relay', 0)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


async def holder(settings: Settings, pid: int | None) -> bool:
    """Say whether a process leads."""
    connection = await asyncpg.connect(settings.dsn)
    try:
        found = await connection.fetchval(f"SELECT holder FROM {settings.store}.relay_lease")
    finally:
        await connection.close()
    return f":{pid}:" in str(found)


async def test_session_mode_works_and_the_active_relay_is_not_taken_for_frozen(
    settings: Settings, producer: Producer
) -> None:
    with pooled(settings, "session") as through:
        await answers(through)
        row = Row(settings)
        async with busy(settings, producer) as clients:
            with relay(through) as one, relay(through) as other:
                await row.moves(1)
                epoch = await row.epoch()
                beats = await silence(settings)
                assert beats < SILENCE_MAX_S
                assert await row.epoch() == epoch, "nobody took over"
                assert (one.exitcode, other.exitcode) == (None, None)
        await judge(settings, clients)


async def silence(settings: Settings) -> float:
    """Watch for longer than a silence may be; return the longest one that was seen."""
    connection = await asyncpg.connect(settings.dsn)
    query = f"SELECT holder, beat FROM {settings.store}.relay_lease"
    longest, seen = 0.0, None
    try:
        since = began = time.monotonic()
        while time.monotonic() < began + SILENCE_MAX_S + 2:
            if (found := await connection.fetchrow(query)) != seen:
                since, seen = time.monotonic(), found
            longest = max(longest, time.monotonic() - since)
            await asyncio.sleep(0.1)  # it is the time that is watched
    finally:
        await connection.close()
    return longest


async def test_statement_mode_is_refused_by_everybody(settings: Settings) -> None:
    """A session is lent for one statement there: nothing of ours can work, and everybody says so at once."""

    async def opened(manager: AbstractAsyncContextManager[object]) -> None:
        async with manager:
            pass

    with pooled(settings, "statement") as through:
        await answers(through)
        async with asyncpg.create_pool(through.dsn, min_size=1, max_size=1, statement_cache_size=0) as pool:
            before = await pool.fetchval("SHOW lock_timeout")
            stop = asyncio.Event()
            for attempt in (
                initialise(through),
                opened(Producer.connect(through)),
                opened(Reader.connect(through)),
                Relay(through).run(stop),
                OutboxKeeper(through).run(stop),
                Indexer(through).run(stop),
            ):
                with pytest.raises(SettingsError, match="pool_mode = statement"):
                    await asyncio.wait_for(attempt, 30)
            assert await pool.fetchval("SHOW lock_timeout") == before, "nothing was left in a session of others"
