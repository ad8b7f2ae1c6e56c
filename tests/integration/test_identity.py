"""The id of a store stays, whatever is lost of its database."""

from uuid import uuid4

import asyncpg
import pytest
from support.reconciling import append, look, publish, repair

from gatelog.console.store import examine, initialise
from gatelog.core.identity import ForeignStoreError, Identified, ask
from gatelog.core.mending import InitRefusedError
from gatelog.producer import Producer


async def test_a_gate_that_was_lost_takes_its_place_again(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
    await publish(settings, 3)
    schemas = await connection.fetch(f"SELECT * FROM {settings.store}.schemas ORDER BY id")
    await connection.execute(f"DROP SCHEMA {settings.store} CASCADE")
    with pytest.raises(ForeignStoreError, match=f"gatelog init --id {settings.store_id}"):
        await initialise(settings)
    await initialise(settings, store_id=settings.store_id)
    await connection.executemany(
        f"INSERT INTO {settings.store}.schemas OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6)",
        [list(row) for row in schemas],
    )
    await repair(settings)
    assert (await look(settings)).agree
    assert await ask(settings, "test") == settings


async def test_an_id_stays(settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """The table is lost, then all that says the id; it never becomes another one by itself."""
    table, other = f"{settings.store}.identity", uuid4()
    with pytest.raises(InitRefusedError, match=str(settings.store_id)):
        await initialise(settings, store_id=other)
    await connection.execute(f"DROP TABLE {table}")
    assert [str(each) for each in (await examine(settings))[0].mended] == ["table identity"]
    await initialise(settings)
    assert (await ask(settings, "test")).store_id == settings.store_id
    await connection.execute(f"DROP TABLE {table}; COMMENT ON SCHEMA {settings.store} IS NULL")
    with pytest.raises(InitRefusedError, match="--id"):
        await initialise(settings)
    await initialise(settings, store_id=settings.store_id)
    assert (await ask(settings, "test")).store_id == settings.store_id
    await initialise(settings)
    with pytest.raises(InitRefusedError):
        await initialise(settings, store_id=other)
