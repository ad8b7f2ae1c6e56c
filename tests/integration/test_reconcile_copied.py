"""A database whose rows were copied, as logical replication does it: its sequences stand where they were made."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr
from support.kafka import records_of
from support.reconciling import append, look, publish, refused, repair
from support.restores import copy_rows
from support.running import running
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.errors import LogMismatchError, ReconcileRefusedError, SchemaError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import Event


class Counted(Event):
    """An event type that the copied database does not know yet."""

    number: int


@pytest.fixture
async def copied(settings: Settings, spare_dsns: list[str]) -> AsyncIterator[Settings]:
    """Settings of the same store in a second database, which has its tables and no rows of it yet."""
    there = settings.model_copy(update={"postgres_dsn": SecretStr(spare_dsns[0])})
    await initialise(there)
    yield there
    connection = await asyncpg.connect(there.dsn)
    await connection.execute(f'DROP SCHEMA IF EXISTS "{settings.store}" CASCADE')
    await connection.close()


async def test_appends_of_a_copied_database_are_kept_and_published(settings: Settings, copied: Settings) -> None:
    """Outbox ids repeat there: what an event is, its own id tells."""
    async with Producer.connect(settings) as producer:
        events = await append(producer, "Note-1", *"abcdefgh")
        await append(producer, "Note-9", "x")
        await publish(settings, 9)
        events += await append(producer, "Note-1", "i")  # due in the copy
        await copy_rows(settings, copied)
        (lost,) = await append(producer, "Note-9", "y")  # in Kafka only
        async with running(Relay(settings)):
            await until(lambda: _holds(settings, 11), "the old database goes on")

    async with Producer.connect(copied) as producer:
        events += await append(producer, "Note-1", "j", "k")
        events += await append(producer, "Note-2", "l")
        conflicting = await append(producer, "Note-9", "z")
        with pytest.raises(SchemaError, match=r"'Counted' was given an id that another one has.*gatelog reconcile"):
            await producer.append("Note-2", [Counted(number=1)], expected_version=1)
        await _cannot_rotate(copied)
        with pytest.raises(LogMismatchError, match=r"restored from a dump.*gatelog reconcile"):
            await refused(copied)
        found = await look(copied)
        assert (found.lost, found.due, found.conflicting) == (1, 3, 1)
        with pytest.raises(ReconcileRefusedError, match="--drop-conflicting"):
            await repair(copied)
        dropped: list[asyncpg.Record] = []
        await repair(copied, dropped)
        assert [row["event_id"] for row in dropped] == conflicting
        assert (await look(copied)).agree
        counted = await producer.append("Note-2", [Counted(number=1)], expected_version=1)
        events += [*counted.event_ids, *await append(producer, "Note-9", "zz")]
        events += await append(producer, "Note-3", *("m" * 60))  # the outbox takes turns again
        await publish(copied, 76)
    records = await asyncio.to_thread(records_of, settings)
    assert sorted(record.position for record in records) == list(range(1, 77))
    assert {record.event_id for record in records} >= {*events, lost}
    async with Reader.connect(copied) as reader:
        assert [event.id async for event in reader.stream("Note-1")] == [*events[:11]]
        assert len([event async for event in reader.all()]) == 76
        positions = [event.position async for event in reader.stream("Note-1")]
        assert positions == sorted(positions, key=lambda each: each or 0), "what was appended here came later"
    connection = await asyncpg.connect(copied.dsn)
    ids = await connection.fetch(f"SELECT id FROM {copied.store}.schemas ORDER BY id")
    await connection.close()
    assert [row["id"] for row in ids] == sorted({row["id"] for row in ids})


async def _holds(settings: Settings, position: int) -> bool:
    return any(record.position == position for record in await asyncio.to_thread(records_of, settings))


async def _cannot_rotate(copied: Settings) -> None:
    """A segment that was drained in the old database is the one that takes appends here: it must not be emptied."""
    connection = await asyncpg.connect(copied.dsn)
    store = copied.store
    await connection.execute(
        f"UPDATE {store}.outbox_state SET segment = 1, drained_at = now() - interval '1 day', cut_xid = '0'"
    )
    before = await connection.fetchval(f"SELECT count(*) FROM {store}.outbox")
    await connection.fetchval(f"SELECT {store}.rotate_outbox(10, '0')")
    assert await connection.fetchval(f"SELECT count(*) FROM {store}.outbox") == before
    await connection.close()
