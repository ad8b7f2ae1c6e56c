"""The gate is restored from an old backup, or lost, and its index, in other databases, is not."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest
from support.apart import connected, noted, outbox_events, parts, rotate
from support.databases import sharded
from support.kafka import records_of
from support.reconciling import look, refused, repair
from support.restores import dump, restore
from support.running import running
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.errors import ConflictError, LogMismatchError, ReconcileRefusedError, StreamClosedError
from gatelog.core.settings import Settings
from gatelog.core.shards import shard_of
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, NO_STREAM, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import NewEvent
from gatelog.schemas.event import StreamClosed

ONE, OTHER, NEW = "Note-1", "Note-5", "Note-6"  # of shard 0 and, twice, of shard 1


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


async def append(producer: Producer, *streams: str) -> dict[str, NewEvent]:
    """One event to each, in turn."""
    events = {stream: noted(1)[0] for stream in streams}
    for stream, event in events.items():
        await producer.append(stream, [event], expected_version=ANY)
    return events


async def drained(settings: Settings) -> None:
    """All is published, indexed, and out of the outbox."""
    async with connected(settings.dsn) as gate, running(*parts(settings)):
        await rotate(settings, gate)
        assert await outbox_events(settings, gate) == 0


async def published(settings: Settings, shards: Sequence[int], number: int) -> None:
    """Kafka holds so many records; only some shards have read them."""
    async with running(*parts(settings, shards=shards)):

        async def are_there() -> bool:
            held = await asyncio.to_thread(records_of, settings)
            return len(held) == number and all([await holds_its(settings, shard, number) for shard in shards])

        await until(are_there, f"{number} records are in Kafka, and in the shards {shards}")


async def holds_its(settings: Settings, shard: int, number: int) -> bool:
    records = await asyncio.to_thread(records_of, settings)
    own = sum(shard_of(record.key.encode(), len(settings.index_dsns)) == shard for record in records)
    async with connected(settings.shard_dsns[shard]) as connection:
        return bool(await connection.fetchval(f"SELECT count(*) FROM {settings.store}.events") == own)


async def all_is_well(settings: Settings, streams: dict[str, int]) -> None:
    """With everything running again: streams and log are whole, and nothing differs anywhere."""
    total = sum(streams.values())
    async with Reader.connect(settings) as reader, running(*parts(settings)):

        async def is_indexed() -> bool:
            return await reader.frontier() == total

        await until(is_indexed, f"the index is whole up to {total}")
        for stream, version in streams.items():
            assert [event.version async for event in reader.stream(stream)] == list(range(1, version + 1))
        assert [event.position async for event in reader.all()] == list(range(1, total + 1))
    done = await verify(settings, silent)
    assert done.agree, done.examples
    assert done.indexed == total


async def test_an_old_backup_of_the_gate(
    bare_settings: Settings, spare_dsns: list[str], tmp_path: Path, chance: random.Random, long: bool
) -> None:
    number = chance.choice([1, 2]) if long else 2  # databases
    async with sharded(bare_settings, spare_dsns[:number]) as settings:
        await initialise(settings)
        await follow_after_a_restore(settings, tmp_path / "gate.sql", number)


async def follow_after_a_restore(settings: Settings, backup: Path, number: int) -> None:
    """Since the backup: events that went from outbox to index, some that a shard has read, some that none has."""
    async with Producer.connect(settings) as producer:
        await append(producer, ONE, OTHER)
        await drained(settings)
        await append(producer, ONE, OTHER)  # due, in the backup
        await dump(settings, backup)
        gone = await append(producer, ONE, NEW)
        await drained(settings)
        late = await append(producer, OTHER, ONE)
        await published(settings, range(number - 1), 8)
        await restore(settings, backup)
    async with Producer.connect(settings) as producer:
        with pytest.raises(LogMismatchError):
            await refused(settings)
        found = await look(settings)
        assert (found.position, found.kafka_position, found.conflicting, found.due) == (2, 8, 0, 0)
        assert found.lost == (2 if number == 1 else 1)
        assert (found.copies, found.missing, found.clashes) == (0, 0, [])
        await repair(settings)
        assert (await look(settings)).agree
        for stream, event in [*gone.items(), *late.items()]:
            again = await producer.append(stream, [event], expected_version=ANY)
            assert again.known, f"the gate does not know what was appended to {stream} after the backup"
        for stream, version in {ONE: 4, OTHER: 3, NEW: 1}.items():
            with pytest.raises(ConflictError, match=f"it is at version {version}"):
                await producer.append(stream, noted(1), expected_version=version - 1 or NO_STREAM)
        async with Reader.connect(settings) as reader:  # before anything runs
            assert [event.version async for event in reader.stream(OTHER)] == [1, 2, 3]
        await append(producer, NEW)
        await all_is_well(settings, {ONE: 4, OTHER: 3, NEW: 2})


async def test_appends_to_a_restored_gate_that_nobody_stopped(shards: Settings, tmp_path: Path) -> None:
    """One repeats an event that the gate had lost; one takes the place of another, and has to go; one is well."""
    async with Producer.connect(shards) as producer:
        await append(producer, ONE, OTHER)
        await drained(shards)
        await dump(shards, tmp_path / "gate.sql")
        lost = await append(producer, ONE, OTHER)
        await drained(shards)
        await restore(shards, tmp_path / "gate.sql")
    async with Producer.connect(shards) as producer:
        assert not (await producer.append(ONE, [lost[ONE]], expected_version=1)).known
        await append(producer, OTHER, NEW)
        found = await look(shards)
        assert (found.lost, found.conflicting, found.due) == (0, 1, 1)
        with pytest.raises(ReconcileRefusedError, match=f"for example {OTHER}@2"):
            await repair(shards)
        dropped: list[asyncpg.Record] = []
        await repair(shards, dropped)
        assert [(row["stream"], row["version"]) for row in dropped] == [(OTHER, 2)]
        for stream, event in lost.items():
            assert (await producer.append(stream, [event], expected_version=ANY)).known
        await all_is_well(shards, {ONE: 2, OTHER: 2, NEW: 1})


async def test_the_gate_is_lost_and_the_shards_are_not(shards: Settings) -> None:
    """A new database takes their place over, by command; ids, versions and closed streams are what they were."""
    store = shards.store
    async with Producer.connect(shards) as producer:
        await producer.prepare(StreamClosed)
        first = await append(producer, ONE, OTHER, NEW)
        await producer.close_stream(NEW, expected_version=1)
        await drained(shards)
    async with connected(shards.dsn) as gate:
        schemas = await gate.fetch(f"SELECT * FROM {store}.schemas ORDER BY id")
        await gate.execute(f"DROP SCHEMA {store} CASCADE")
        await initialise(shards, adopt_index=True)
        await gate.executemany(
            f"INSERT INTO {store}.schemas OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6)",
            [list(row) for row in schemas],
        )
        await gate.execute(
            f"SELECT setval(pg_get_serial_sequence('{store}.schemas', 'id'), (SELECT max(id) FROM {store}.schemas))"
        )
    await repair(shards)
    async with Producer.connect(shards) as producer:
        with pytest.raises(StreamClosedError):
            await append(producer, NEW)
        for stream, event in first.items():
            assert (await producer.append(stream, [event], expected_version=ANY)).known
        await append(producer, ONE)
        await all_is_well(shards, {ONE: 2, OTHER: 1, NEW: 2})


async def test_positions_that_no_shard_holds_are_named(shards: Settings) -> None:
    async with Producer.connect(shards) as producer:
        await append(producer, ONE, OTHER, NEW)
        async with running(Relay(shards)):

            async def are_there() -> bool:
                return len(await asyncio.to_thread(records_of, shards)) == 3

            await until(are_there, "three records are in Kafka")
        await published(shards, [0, 1], 3)
    async with connected(shards.shard_dsns[1]) as shard:
        await shard.execute(
            f"ALTER TABLE {shards.store}.events DISABLE TRIGGER ALL;"
            f"DELETE FROM {shards.store}.events WHERE position = 3;"
            f"DELETE FROM {shards.store}.index_frontier_log; INSERT INTO {shards.store}.index_frontier_log VALUES (0)"
        )
    found = await look(shards)
    assert (found.missing, found.missing_ranges) == (1, [(3, 3)])
