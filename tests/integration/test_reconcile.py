"""Postgres and Kafka disagree, after a true dump and restore: what is named, and what ``reconcile`` makes of it.

The judge stands outside: it reads every topic, read_committed, and compares it with what was acknowledged.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr
from support.clients import Clients, Published
from support.kafka import Seen, records_of
from support.models import Noted
from support.reconciling import append, damage_witness, heal_witness, look, publish, refused, repair
from support.restores import dump, restore
from support.running import running
from support.waiting import until

from gatelog.core.errors import (
    ConflictError,
    LogMismatchError,
    ReconcileRefusedError,
    StreamClosedError,
)
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import NewEvent
from gatelog.schemas.event import StreamClosed


async def judge(settings: Settings, acknowledged: Sequence[UUID]) -> list[Seen]:
    """Kafka and index hold what was acknowledged, each event once, gapless, in stream order, and nothing else."""
    await publish(settings, len(acknowledged))
    records = sorted(await asyncio.to_thread(records_of, settings), key=lambda record: record.position)
    assert [record.position for record in records] == list(range(1, len(acknowledged) + 1))
    assert {record.event_id for record in records} == set(acknowledged)
    versions: dict[str, list[int]] = defaultdict(list)
    for record in records:
        versions[record.key].append(int(record.headers["ce_streamversion"]))
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values()), "positions follow versions"
    async with Reader.connect(settings) as reader:
        assert [event.id async for event in reader.all()] == [record.event_id for record in records]
        for stream, found in versions.items():
            assert [event.version async for event in reader.stream(stream)] == found
    return records


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup.sql"


@pytest.mark.parametrize("by", ["rows", "files"])
async def test_a_backup_that_is_older_than_kafka(settings: Settings, backup: Path, by: str) -> None:
    """Events that came after the backup are in Kafka only; one that was due in it was published since.

    By files, as in a failover to a replica that lost commits, transaction ids keep their meaning.
    """
    async with Producer.connect(settings) as producer:
        await producer.prepare(StreamClosed)
        events = await append(producer, "Note-1", "a", "b")
        await publish(settings, 2)
        events += await append(producer, "Note-1", "c")  # due in the backup
        await dump(settings, backup)
        events += await append(producer, "Note-1", "d")
        events += await append(producer, "Note-2", "e")
        await producer.append("Note-3", [Noted(text="f")], expected_version=0)
        closed = await producer.close_stream("Note-3", expected_version=1)
        events += [*(await _ids(settings, "Note-3"))]
        assert closed.event_ids[0] in events
        await publish(settings, 7)
    await restore(settings, backup)
    if by == "files":
        await heal_witness(settings)
    why = {"rows": "restored from a dump", "files": "Kafka holds positions up to 7"}[by]
    with pytest.raises(LogMismatchError, match=rf"{why}.*run: gatelog reconcile$"):
        await refused(settings)

    found = await look(settings)
    assert (found.restored, found.position, found.kafka_position, found.lost) == (by == "rows", 2, 7, 4)
    assert (found.due, found.conflicting) == (0, 0)
    assert await look(settings) == found, "a look changes nothing"
    await repair(settings)

    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        # Before any indexer has run: streams are whole, ids and versions are known.
        assert await _texts(reader, "Note-1") == ["a", "b", "c", "d"]
        with pytest.raises(ConflictError, match="it is at version 4"):
            await producer.append("Note-1", [Noted(text="x")], expected_version=3)
        with pytest.raises(StreamClosedError):
            await producer.append("Note-3", [Noted(text="x")], expected_version=ANY)
        again = await producer.append("Note-1", [NewEvent(Noted(text="d"), id=events[3])], expected_version=ANY)
        assert (again.known, again.version) == (True, 4)
        events += await append(producer, "Note-1", "g")
        events += await append(producer, "Note-4", "h")
    await judge(settings, events)
    assert (await look(settings)).agree


async def _ids(settings: Settings, stream: str) -> list[UUID]:
    async with Reader.connect(settings) as reader:
        return [event.id async for event in reader.stream(stream)]


async def _texts(reader: Reader, stream: str) -> list[str]:
    return [event.data.text async for event in reader.stream(stream) if isinstance(event.data, Noted)]


async def test_events_that_were_accepted_after_the_restore_are_kept_unless_they_conflict(
    settings: Settings, backup: Path
) -> None:
    async with Producer.connect(settings) as producer:
        events = await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await dump(settings, backup)
        events += await append(producer, "Note-1", "b")
        events += await append(producer, "Note-2", "c")
        await publish(settings, 3)
    await restore(settings, backup)
    async with Producer.connect(settings) as producer:
        conflicting = await append(producer, "Note-1", "b'", "c'", "d'")
        conflicting += await append(producer, "Note-2", "c'")
        # The same append again, by a client that did not get its answer, but in another place.
        moved = await producer.append("Note-5", [NewEvent(Noted(text="c"), id=events[2])], expected_version=0)
        conflicting += moved.event_ids
        events += await append(producer, "Note-3", "e", "f")

    found = await look(settings)
    assert (found.lost, found.due, found.conflicting) == (2, 2, 5)
    before = await _texts_of_outbox(settings)
    with pytest.raises(ReconcileRefusedError, match=r"5 events.*Note-1@2…4.*--drop-conflicting"):
        await repair(settings)
    assert await _texts_of_outbox(settings) == before, "nothing was changed"

    dropped: list[asyncpg.Record] = []
    await repair(settings, dropped)
    assert [row["event_id"] for row in dropped] == conflicting
    async with Producer.connect(settings) as producer:
        for stream, version in (("Note-1", 2), ("Note-2", 1), ("Note-3", 2), ("Note-5", 0)):
            done = await producer.append(stream, [Noted(text="g")], expected_version=version)
            events += done.event_ids
    await judge(settings, events)


async def _texts_of_outbox(settings: Settings) -> list[tuple[int, bytes]]:
    connection = await asyncpg.connect(settings.dsn)
    rows = await connection.fetch(f"SELECT id, data FROM {settings.store}.outbox ORDER BY id")
    await connection.close()
    return [tuple(row) for row in rows]


@pytest.fixture
async def elsewhere(settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of the same store in a second Postgres, whose transaction ids are lower."""
    local = LocalServices(tmp_path / "elsewhere")
    endpoints = await asyncio.to_thread(partial(local.up, only="postgres"))
    try:
        yield settings.model_copy(update={"postgres_dsn": SecretStr(endpoints.postgres_dsn)})
    finally:
        await asyncio.to_thread(local.destroy)


async def _xid(settings: Settings) -> int:
    connection = await asyncpg.connect(settings.dsn)
    xid = await connection.fetchval("SELECT pg_current_xact_id()")
    await connection.close()
    return int(xid)


async def _burn_xids(settings: Settings, upto: int) -> None:
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(
        f"DO $$ BEGIN WHILE pg_current_xact_id()::text::bigint < {upto} LOOP COMMIT; END LOOP; END $$"
    )
    await connection.close()


@pytest.mark.parametrize("passed", [False, True])
async def test_a_move_to_another_cluster(settings: Settings, elsewhere: Settings, backup: Path, passed: bool) -> None:
    """Its transaction ids are lower: also recognised when they have passed the old ones before a relay looks."""
    await _burn_xids(settings, await _xid(elsewhere) + 2_000)
    async with Producer.connect(settings) as producer:
        events = await append(producer, "Note-1", "a", "b")
        await publish(settings, 2)
        events += await append(producer, "Note-1", "c", "d")
        events += await append(producer, "Note-2", "e")
    moved_at = await _xid(settings)
    await dump(settings, backup)
    await restore(elsewhere, backup)
    assert await _xid(elsewhere) < moved_at
    async with Producer.connect(elsewhere) as producer:
        events += await append(producer, "Note-1", "f")
    if passed:
        await _burn_xids(elsewhere, moved_at + 1_000)
    with pytest.raises(LogMismatchError, match="restored from a dump"):
        await refused(elsewhere)
    found = await look(elsewhere)
    assert (found.restored, found.due, found.lost, found.conflicting) == (True, 4, 0, 0)
    await repair(elsewhere)
    async with Producer.connect(elsewhere) as producer:
        events += await append(producer, "Note-1", "g")
        events += await append(producer, "Note-3", "h")
    await judge(elsewhere, events)


async def test_what_is_appended_during_the_repair_is_published_too(settings: Settings, backup: Path) -> None:
    """Clients go on all the time, some in transactions that are open when the repair begins."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Other-1", "a", "b", "c")
        await dump(settings, backup)
        await publish(settings, 3)
    await restore(settings, backup)
    async with Producer.connect(settings) as producer:
        clients = Clients(settings, producer)
        clients.acknowledged += [
            (0, 0, str(record.event_id)) for record in await asyncio.to_thread(records_of, settings)
        ]
        async with clients.appending(10, transactions=5):
            await asyncio.sleep(0.5)
            for _ in range(5):
                await repair(settings)
                await damage_witness(settings)
            await repair(settings)
            async with running(Relay(settings)):
                await asyncio.sleep(0.5)
        async with running(Relay(settings)):

            async def nothing_is_due() -> bool:
                return len(await asyncio.to_thread(records_of, settings)) >= len(clients.acknowledged)

            await until(nothing_is_due, "all is published")
    records = sorted(await asyncio.to_thread(records_of, settings), key=lambda record: record.position)
    clients.judge(
        [
            Published(record.position, str(record.event_id), record.key, int(record.headers["ce_streamversion"]))
            for record in records
        ]
    )


async def test_maintenance_of_postgres_is_no_restore(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute(f"VACUUM (FREEZE) {settings.store}.restore_witness")
    assert not (await look(settings)).restored
    await connection.execute(f"VACUUM (FULL, FREEZE) {settings.store}.restore_witness")
    assert not (await look(settings)).restored
