"""``verify`` compares an index in other databases shard by shard, and says in which one it differs."""

import asyncio
import json
from pathlib import Path

import pytest
from support.apart import connected, noted, outbox_events, parts, rotate
from support.losses import lose_topic
from support.processes import environment, gatelog
from support.restores import dump, restore
from support.running import running
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.core.shards import shard_of
from gatelog.indexer.differences import Verified
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader

ONE, OTHER = "Note-1", "Note-5"  # of shard 0 and of shard 1


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


async def found(settings: Settings, **bounds: int) -> dict[str, list[str]]:
    return (await verify(settings, silent, **bounds)).examples


async def append(settings: Settings, number: int) -> None:
    """To both streams; published, indexed, and out of the outbox."""
    async with Producer.connect(settings) as producer, connected(settings.dsn) as gate, running(*parts(settings)):
        for stream in (ONE, OTHER):
            await producer.append(stream, noted(number), expected_version=ANY)
        await rotate(settings, gate)
        assert await outbox_events(settings, gate) == 0


@pytest.fixture
async def filled(shards: Settings) -> Settings:
    """Positions 1 to 3 are in shard 0, 4 to 6 in shard 1."""
    assert [shard_of(stream.encode(), 2) for stream in (ONE, OTHER)] == [0, 1]
    await append(shards, 3)
    return shards


async def change(dsn: str, table: str, statement: str) -> None:
    """As only somebody could who owns the table."""
    async with connected(dsn) as connection:
        await connection.execute(
            f"ALTER TABLE {table} DISABLE TRIGGER USER; {statement.format(table)}; "
            f"ALTER TABLE {table} ENABLE TRIGGER USER"
        )


async def test_it_agrees_while_everything_goes_on(shards: Settings) -> None:
    """Appends, ticks, indexing, and rotations that take events from one database to the other."""
    stop = asyncio.Event()
    done: list[Verified] = []

    async def keep_appending(producer: Producer) -> None:
        nth = 0
        while not stop.is_set():
            await producer.append(f"Note-{nth % 9}", noted(3), expected_version=ANY)
            nth += 1
            await asyncio.sleep(0.01)

    async with (
        Producer.connect(shards) as producer,
        connected(shards.dsn) as gate,
        running(*parts(shards)),
    ):
        appending = asyncio.create_task(keep_appending(producer))

        async def has_compared_enough() -> bool:
            rotating = asyncio.create_task(rotate(shards, gate))
            done.append(await verify(shards, silent))
            assert done[-1].agree, done[-1].examples
            await rotating
            return done[-1].indexed > 100

        await until(has_compared_enough, "a hundred events are compared")
        stop.set()
        await appending
    assert done[-1].streams == 9
    assert done[-1].records >= done[-1].indexed


async def test_rows_that_are_missing_or_in_the_wrong_shard(filled: Settings) -> None:
    events = f"{filled.store}.events"
    assert await found(filled) == {}
    assert (await verify(filled, silent, first=4)).indexed == 3
    first, second = filled.shard_dsns
    async with connected(first) as own, connected(second) as other:
        row = await own.fetchrow(f"SELECT * FROM {events} WHERE position = 2")
        assert row is not None
        await other.copy_records_to_table("events", schema_name=filled.store, records=[tuple(row)])
    differs = await found(filled)
    assert differs["repeated in the index"] == [
        f"shard 1: position 2 ({ONE}@2): another shard holds this position, too"
    ]
    await change(first, events, "DELETE FROM {} WHERE position = 2")
    differs = await found(filled)
    assert differs["in the wrong shard"] == [f"shard 1: position 2 ({ONE}@2): it belongs to shard 0"]
    assert differs["missing in the index"][0].startswith(f"shard 0: position 2 ({ONE}@2) at {filled.store}.Note")
    assert f"shard 0: position 3 ({ONE}@3): the index lacks version 2" in differs["gap in a stream"]
    assert await found(filled, first=4) == {}


async def test_the_gate_and_what_it_remembers(filled: Settings) -> None:
    async with connected(filled.dsn) as gate:
        await gate.execute(f"UPDATE {filled.store}.streams SET version = 2 WHERE stream = '{OTHER}'")
    await change(filled.dsn, f"{filled.store}.stored_ids", f"DELETE FROM {{}} WHERE stream = '{ONE}' AND version = 3")
    differs = await found(filled)
    assert sorted(differs["gate differs"]) == [
        f"{OTHER}: the gate says version 2, index and outbox end at 3",
        f"shard 1: position 6 ({OTHER}@3): the gate says that the stream ends at version 2",
    ]
    (forgotten,) = differs["gate forgot an id"]
    assert forgotten.startswith(f"shard 0: position 3 ({ONE}@3): ")
    assert differs.keys() == {"gate differs", "gate forgot an id"}


async def test_events_of_the_outbox(shards: Settings) -> None:
    """One is where the index has another content; one has nothing before it, in either database."""
    async with Producer.connect(shards) as producer, Reader.connect(shards) as reader, running(*parts(shards)):
        done = await producer.append(ONE, noted(2), expected_version=ANY)
        await reader.indexed(done.event_ids)
    assert await found(shards) == {}
    outbox = f"{shards.store}.outbox_0"
    await change(shards.dsn, outbox, "UPDATE {} SET data = '\\x00' WHERE version = 2")
    assert await found(shards) == {"outbox differs": [f"{ONE}@2: the index has another content at position 2"]}
    async with Producer.connect(shards) as producer:
        for _ in range(3):
            await producer.append(OTHER, noted(1), expected_version=ANY)
    await change(shards.dsn, outbox, f"DELETE FROM {{}} WHERE stream = '{ONE}' OR version = 2")
    assert await found(shards) == {
        "outbox differs": [f"{OTHER}@3: nobody holds version 2"],
        "gate forgot an id": (await found(shards))["gate forgot an id"],
    }


async def test_a_shard_that_was_restored(filled: Settings, tmp_path: Path) -> None:
    own = filled.model_copy(update={"postgres_dsn": filled.index_dsns[1]})
    await dump(own, tmp_path / "dump.sql")
    await append(filled, 1)
    await restore(own, tmp_path / "dump.sql")
    differs = await found(filled)
    assert differs["index is incomplete"] == [
        "shard 1: whole up to position 6 only, but events up to 8 may have left the outbox"
    ]
    assert differs["gate differs"] == [f"{OTHER}: the gate says version 4, index and outbox end at 3"]


async def test_topics_that_are_gone(filled: Settings, tmp_path: Path) -> None:
    await lose_topic(filled, "Note")
    shown = await asyncio.to_thread(gatelog, ["verify", "--json"], environment(filled), tmp_path)
    assert shown.returncode == 8, shown.stderr
    report = json.loads(shown.stdout)
    assert report["examples"]["missing in Kafka"] == ["positions 1 to 6"]
    assert report["examples"]["topic is gone"] == [f"shard {n}: {filled.store}.Note" for n in range(2)]


async def test_an_index_in_one_database_of_its_own(apart: Settings) -> None:
    await append(apart, 2)
    done = await verify(apart, silent)
    assert (done.agree, done.indexed, done.streams, done.frontier) == (True, 4, 2, 4)
