"""Postgres is lost as a whole, or restored from an old state: gate and index come back from Kafka."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from support.kafka import records_of
from support.models import Noted
from support.reconciling import append, look, pipeline, publish, repair
from support.restores import dump, restore

from gatelog.console.store import initialise
from gatelog.core.errors import ConflictError, StreamClosedError
from gatelog.core.identity import Identified
from gatelog.indexer.rebuild import rebuild
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, NO_STREAM, Producer
from gatelog.reader import Reader
from gatelog.schemas.event import StreamClosed


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.mark.parametrize("index_first", [False, True])
async def test_all_of_postgres_is_lost(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]", index_first: bool
) -> None:
    """A new, empty database, and the table of schemas from its backup."""
    store = settings.store
    async with Producer.connect(settings) as producer:
        await producer.prepare(StreamClosed)
        await append(producer, "Note-1", *"abc")
        await append(producer, "Other-1", *"de")
        await producer.close_stream("Other-1", expected_version=2)
        await publish(settings, 6)
    before = {record.event_id for record in await asyncio.to_thread(records_of, settings)}
    schemas = await connection.fetch(f"SELECT * FROM {store}.schemas ORDER BY id")
    await connection.execute(f"DROP SCHEMA {store} CASCADE")
    await initialise(settings, store_id=settings.store_id)
    await connection.executemany(
        f"INSERT INTO {store}.schemas OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6)",
        [list(row) for row in schemas],
    )
    await connection.execute(
        f"SELECT setval(pg_get_serial_sequence('{store}.schemas', 'id'), (SELECT max(id) FROM {store}.schemas))"
    )
    if index_first:  # as a store of any size would be brought back
        assert (await rebuild(settings, silent)).frontier == 6
    assert not (await look(settings)).agree
    await repair(settings)
    assert (await look(settings)).agree
    async with Producer.connect(settings) as producer:
        with pytest.raises(ConflictError, match="it is at version 3"):
            await producer.append("Note-1", [Noted(text="x")], expected_version=NO_STREAM)
        with pytest.raises(StreamClosedError):
            await producer.append("Other-1", [Noted(text="x")], expected_version=ANY)
        (more,) = await append(producer, "Note-1", "f")
        async with pipeline(settings) as reader:
            assert await reader.indexed([more]) == [7]
            assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3, 4]
    assert {record.event_id for record in await asyncio.to_thread(records_of, settings)} == {*before, more}
    done = await verify(settings, silent)
    assert (done.agree, done.indexed, done.streams) == (True, 7, 2), done.examples


async def test_an_indexer_that_went_on_after_a_restore(settings: Identified, tmp_path: Path) -> None:
    """The index knows events that the restored gate does not: the gate follows, too."""
    backup = tmp_path / "backup.sql"
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await dump(settings, backup)
        await append(producer, "Note-1", "b")
        await append(producer, "Note-2", "c")
        await publish(settings, 3)
    await restore(settings, backup)
    await rebuild(settings, silent)  # or an indexer
    assert (await look(settings)).kafka_position == 3
    await repair(settings)
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        assert await reader.version("Note-2") == 1
        with pytest.raises(ConflictError, match="it is at version 2"):
            await producer.append("Note-1", [Noted(text="x")], expected_version=1)
        with pytest.raises(ConflictError, match="it is at version 1"):
            await producer.append("Note-2", [Noted(text="x")], expected_version=NO_STREAM)
        (more,) = await append(producer, "Note-1", "d")
        async with pipeline(settings) as reading:
            assert await reading.indexed([more]) == [4]
    done = await verify(settings, silent)
    assert done.agree, done.examples


async def test_all_of_postgres_is_lost_and_the_registry_is_a_server(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]", registry_url: str
) -> None:
    """Nothing has to be put back by hand."""
    ours = settings.model_copy(update={"registry_url": registry_url})
    async with Producer.connect(ours) as producer:
        await append(producer, "Note-1", *"ab")
        await publish(ours, 2)
    await connection.execute(f"DROP SCHEMA {ours.store} CASCADE")
    await initialise(ours, store_id=settings.store_id)
    assert (await look(ours)).unknown_schemas == []
    await repair(ours)
    async with Producer.connect(ours) as producer:
        (more,) = await append(producer, "Note-1", "c")
        async with pipeline(ours) as reader:
            assert await reader.indexed([more]) == [3]
            assert [event.data async for event in reader.stream("Note-1")] == [Noted(text=text) for text in "abc"]
    assert (await verify(ours, silent)).agree
