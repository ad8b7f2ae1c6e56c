"""Tables: made by many at once, once; edited, older and newer ones are named."""

import asyncio

import asyncpg
import pytest

from gatelog.console.store import initialise
from gatelog.core.errors import StoreNewerThanProgramError, StoreNotInitialisedError
from gatelog.core.migrations import MigrationChangedError
from gatelog.core.settings import Settings
from gatelog.producer import Producer


async def test_many_at_once_make_the_tables_once(bare_settings: Settings) -> None:
    applied = await asyncio.gather(*(initialise(bare_settings) for _ in range(8)))
    assert sorted(map(len, applied))[:7] == [0] * 7
    assert len(max(applied, key=len)) >= 4
    assert await initialise(bare_settings) == []


async def test_an_edited_migration_is_named(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute(f"UPDATE {settings.store}.migrations SET sha256 = 'x' WHERE part = 'producer'")
    with pytest.raises(MigrationChangedError, match="producer/0001"):
        await initialise(settings)


async def test_a_newer_and_an_older_store_are_named(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    number = f"(SELECT max(number) FROM {settings.store}.migrations WHERE part = 'producer')"
    await connection.execute(
        f"INSERT INTO {settings.store}.migrations (part, number, name, sha256) "
        f"VALUES ('producer', {number} + 1, 'future', 'x')"
    )
    for attempt in (initialise(settings), _connect(settings)):
        with pytest.raises(StoreNewerThanProgramError, match="Upgrade this program"):
            await attempt
    await connection.execute(f"DELETE FROM {settings.store}.migrations WHERE part = 'producer' AND number > 1")
    with pytest.raises(StoreNotInitialisedError, match=r"migration 1 of \d"):
        await _connect(settings)


async def _connect(settings: Settings) -> None:
    async with Producer.connect(settings):
        pass


async def test_two_stores_in_one_database(bare_settings: Settings) -> None:
    other = bare_settings.model_copy(update={"store": f"{bare_settings.store}b"})
    try:
        await asyncio.gather(initialise(bare_settings), initialise(other))
        async with Producer.connect(bare_settings), Producer.connect(other):
            pass
    finally:
        connection = await asyncpg.connect(other.dsn)
        await connection.execute(f"DROP SCHEMA IF EXISTS {other.store} CASCADE")
        await connection.close()
