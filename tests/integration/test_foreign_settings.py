"""Settings of the role or the database, and what others have planted: the store works, or says what is wrong."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from support.apart import connected
from support.foreign import hostile_role
from support.models import Noted
from support.running import running

from gatelog.console.store import initialise
from gatelog.core import postgres
from gatelog.core.errors import SettingsError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.local import Endpoints
from gatelog.producer import NO_STREAM, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import Event


class FirstOfAll(Event):
    """A type that many register at the same moment."""

    text: str


@pytest.fixture
async def hostile(bare_settings: Settings) -> AsyncIterator[Settings]:
    async with hostile_role(bare_settings) as settings:
        yield settings


WANTED = {
    "default_transaction_isolation": "read committed",
    "transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "synchronous_commit": "on",
    "search_path": '""',
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, DMY",
}


@pytest.mark.parametrize("kind", ["own", "pooled", "lent"])
async def test_each_connection_sets_what_correctness_rests_on(hostile: Settings, kind: str) -> None:
    async with asyncio.timeout(30):
        if kind == "pooled":
            async with postgres.pool(hostile.dsn, hostile.store, "test", 1) as pool, pool.acquire() as lent:
                await _check(lent)
            return
        opened = postgres.connect_lent if kind == "lent" else postgres.connect
        connection = await opened(hostile.dsn, hostile.store, "test")
        try:
            await _check(connection)
        finally:
            await connection.close()


async def _check(connection: postgres.Connection) -> None:
    wanted = {
        name: value for name, value in WANTED.items() if not postgres.is_lent(connection) or "default_" not in name
    }
    if connection.get_server_version() >= (17,):
        wanted["transaction_timeout"] = "0"
    found = {name: await connection.fetchval("SELECT pg_catalog.current_setting($1)", name) for name in wanted}
    assert found == wanted


async def test_the_whole_way_as_a_role_with_settings_of_its_own(hostile: Settings) -> None:
    """Many append the first event of a type at the same moment; all of it is carried on, and read back."""
    await initialise(hostile)
    first = hostile.model_copy(update={"outbox_segment_events": 10})
    async with (
        Producer.connect(first) as one,
        Producer.connect(first) as other,
        Reader.connect(first) as reader,
        running(Relay(first), OutboxKeeper(first), Indexer(first)),
    ):
        appends = [
            producer.append(f"First-{n}-{name}", [FirstOfAll(text="é€")], expected_version=NO_STREAM)
            for n in range(10)
            for name, producer in (("one", one), ("other", other))
        ]
        done = await asyncio.gather(*appends)
        assert {each.version for each in done} == {1}
        await reader.indexed([event_id for each in done for event_id in each.event_ids])
        events = (await reader.all().page(20)).events
        assert [event.data for event in events] == [FirstOfAll(text="é€")] * 20
        by_field = (await reader.all(types=[FirstOfAll], where={"text": "é€"}).page(20)).events
        assert len(by_field) == 20


@pytest.mark.parametrize("isolation", ["read_committed", "serializable"])
async def test_an_append_in_a_transaction_of_such_a_role(hostile: Settings, isolation: str) -> None:
    await initialise(hostile)
    async with Producer.connect(hostile) as producer, Reader.connect(hostile) as reader:
        connection = await asyncpg.connect(hostile.dsn)
        try:
            async with connection.transaction(isolation=isolation):  # type: ignore[arg-type] # one of asyncpg's
                await connection.execute("SET TRANSACTION READ WRITE")
                done = await producer.append(
                    "First-1", [FirstOfAll(text="a")], expected_version=NO_STREAM, connection=connection
                )
        finally:
            await connection.close()
        assert [event.id async for event in reader.stream("First-1")] == list(done.event_ids)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_of_another_encoding_is_refused_by_init(endpoints: Endpoints, encoding: str) -> None:
    name = f"gatelog_{secrets.token_hex(6)}"
    async with connected(endpoints.postgres_dsn) as connection:
        await connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        try:
            dsn = urlsplit(endpoints.postgres_dsn)._replace(path=f"/{name}").geturl()
            with pytest.raises(SettingsError, match=f"encoding {encoding}.*UTF8"):
                await initialise(Settings.load(store="any", postgres_dsn=SecretStr(dsn)))
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_events_stay_in_a_session_that_replicates(
    settings: Settings, producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with running(Relay(settings), Indexer(settings)):
        done = await producer.append("Note-1", [Noted(text="a")], expected_version=NO_STREAM)
        await reader.indexed(done.event_ids)
    await connection.execute("SET session_replication_role = replica")
    for table in ("events", "outbox", "schemas"):
        changes = [f"DELETE FROM {table}", f"TRUNCATE {table}"]
        if table != "outbox":
            changes.append(f"UPDATE {table} SET {'subject' if table == 'schemas' else 'type'} = 'x'")
        for change in changes:
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="immutable"):
                await connection.execute(change.replace(table, f"{settings.store}.{table}"))
