"""A relay behind a real PgBouncer: it works in session mode, and says in transaction mode why it cannot."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr
from support.pgbouncer import pgbouncer
from support.trial import Row, busy, judge, relay
from support.waiting import until

from gatelog.core.errors import SettingsError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.producer.relay.relay import SILENCE_MAX_S


@contextmanager
def pooled(settings: Settings, mode: str) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which only its owner may enter
        Path(folder).chmod(0o755)
        with pgbouncer(Path(folder) / "pgbouncer", settings.dsn, mode) as dsn:
            yield settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def answers(settings: Settings) -> None:
    async def does_answer() -> bool:
        try:
            await (await asyncpg.connect(settings.dsn)).close()
        except OSError:
            return False
        return True

    await until(does_answer, "PgBouncer answers")


async def test_transaction_mode_is_named_and_nothing_is_left_behind(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with pooled(settings, "transaction") as through:
        await answers(through)
        with pytest.raises(SettingsError, match=r"transaction mode: LISTEN does not work.*directly"):
            async with asyncio.timeout(30):
                await run_all(asyncio.Event(), Relay(through))
        assert await connection.fetchval(f"SELECT holder FROM {settings.store}.relay_lease") == "", "no lock taken"


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
    query = f"SELECT extract(epoch FROM clock_timestamp() - beat_at)::float FROM {settings.store}.relay_lease"
    longest = 0.0
    try:
        deadline = asyncio.get_running_loop().time() + SILENCE_MAX_S + 2
        while asyncio.get_running_loop().time() < deadline:
            longest = max(longest, await connection.fetchval(query))
            await asyncio.sleep(0.1)  # it is the time that is watched
    finally:
        await connection.close()
    return longest
