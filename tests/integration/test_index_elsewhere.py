"""The index in another database than the gate: ids are known for ever, reads are whole, wrong settings are named."""

import asyncio
import random
from functools import partial
from typing import Any

import asyncpg
import pytest
from support.apart import connected, noted, outbox_events, parts, rotate
from support.databases import sharded
from support.running import running
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.errors import (
    ConflictError,
    EventIdReusedError,
    IndexPlaceError,
    StoreNotInitialisedError,
)
from gatelog.core.settings import Settings
from gatelog.producer import ANY, NO_STREAM, HistoricEvent, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.reader import Reader


async def test_appends_are_indexed_there_and_read_from_both(apart: Settings) -> None:
    async with Producer.connect(apart) as producer, Reader.connect(apart) as reader, connected(apart.dsn) as gate:
        one, two = noted(3), noted(2)
        await producer.append("Note-1", one, expected_version=NO_STREAM)
        assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3]
        assert await reader.version("Note-1") == 3
        assert await reader.version("Note-2") == 0
        async with running(*parts(apart)):
            assert await reader.indexed([event.id for event in one]) == [1, 2, 3]
            await rotate(apart, gate)
            assert await outbox_events(apart, gate) == 0
        await producer.append("Note-1", two, expected_version=3)
        forward = [(event.version, event.position) async for event in reader.stream("Note-1")]
        assert forward == [(1, 1), (2, 2), (3, 3), (4, None), (5, None)]
        last = [event.version async for event in reader.stream("Note-1", backward=True, limit=3)]
        assert last == [5, 4, 3]
        assert await reader.version("Note-1") == 5
        assert [event.position async for event in reader.category("Note")] == [1, 2, 3]
        assert await gate.fetchval("SELECT to_regclass($1)", f"{apart.store}.events") is None


async def test_ids_are_known_after_their_events_have_left_the_outbox(apart: Settings) -> None:
    """A retry is answered as the first time, whichever way it takes; an id is not taken for another event."""
    one, many, loaded = noted(1), noted(3), noted(2)
    history = [HistoricEvent("Note-3", version, event) for version, event in enumerate(loaded, 1)]
    async with Producer.connect(apart) as producer, connected(apart.dsn) as gate:
        first = await producer.append("Note-1", one, expected_version=NO_STREAM)
        second = await producer.append("Note-2", many, expected_version=NO_STREAM)
        assert (await producer.load(history)).new == 2
        async with running(*parts(apart)):
            await rotate(apart, gate)
            assert await outbox_events(apart, gate) == 0

        again = await producer.append("Note-1", one, expected_version=NO_STREAM)
        assert (again.known, again.first_version, again.version) == (True, first.first_version, first.version)
        again = await producer.append("Note-2", many, expected_version=NO_STREAM)
        assert (again.known, again.first_version, again.version) == (True, second.first_version, second.version)
        assert (await producer.load(history)).known == 2
        async with gate.transaction():
            again = await producer.append("Note-2", many, expected_version=ANY, connection=gate)
            assert again.known

        for events in (one, [*one, *noted(1)], many[:2], list(reversed(many))):
            with pytest.raises(EventIdReusedError):
                await producer.append("Note-9", events, expected_version=ANY)
        with pytest.raises(EventIdReusedError):
            await producer.append("Note-2", [*many, *noted(1)], expected_version=ANY)
        with pytest.raises(EventIdReusedError):
            await producer.load([HistoricEvent("Note-9", 1, one[0])])
        with pytest.raises(ConflictError):
            await producer.append("Note-2", noted(1), expected_version=NO_STREAM)
        assert await outbox_events(apart, gate) == 0


@pytest.mark.parametrize("step", ["cut", "drained", "emptied"])
async def test_an_append_under_a_snapshot_that_is_too_old_stores_no_id_twice(apart: Settings, step: str) -> None:
    events = noted(1)
    keeper = OutboxKeeper(apart.model_copy(update={"outbox_segment_events": 1, "outbox_snapshot_age_max_s": 0.0}))
    async with (
        Producer.connect(apart) as producer,
        connected(apart.dsn) as gate,
        connected(apart.dsn) as own,
        own.transaction(isolation="repeatable_read"),
    ):
        await own.fetchval("SELECT pg_current_xact_id()")
        await producer.append("Note-1", events, expected_version=ANY)

        async def is_taken() -> bool:
            return await keeper.run_once(gate) == step

        async with running(*parts(apart)):
            await until(is_taken, f"the step {step!r} is taken")
        with pytest.raises(asyncpg.SnapshotTooOldError):
            async with own.transaction():
                await producer.append("Note-2", events, expected_version=ANY, connection=own)


@pytest.mark.parametrize("number", [1, 2])
async def test_every_read_of_a_stream_is_whole_while_the_outbox_is_rotated_all_the_time(
    bare_settings: Settings, spare_dsns: list[str], number: int, chance: random.Random, long: bool
) -> None:
    """No snapshot covers two databases; still no read lacks an event that was acknowledged before it began."""
    streams = [f"Note-{nth}" for nth in range(4)]
    acknowledged = dict.fromkeys(streams, 0)
    done = asyncio.Event()
    reads = 0
    async with sharded(bare_settings, spare_dsns[:number]) as settings:
        await initialise(settings)
        small = settings.model_copy(update={"read_rows_max": 3})  # pages, between which events move

        async def append(producer: Producer) -> None:
            while not done.is_set():
                stream = chance.choice(streams)
                appended = await producer.append(stream, noted(chance.randint(1, 3)), expected_version=ANY)
                acknowledged[stream] = max(acknowledged[stream], appended.version)

        async def read(reader: Reader, *, backward: bool) -> None:
            nonlocal reads
            while not done.is_set():
                stream = chance.choice(streams)
                least = acknowledged[stream]
                if not least:
                    await asyncio.sleep(0)
                    continue
                lowest = max(1, least - 20)
                versions = [
                    event.version async for event in reader.stream(stream, from_version=lowest, backward=backward)
                ]
                assert sorted(versions) == list(range(lowest, max(versions) + 1)), versions
                assert versions == sorted(versions, reverse=backward)
                assert max(versions) >= least
                assert await reader.version(stream) >= least
                reads += 1

        async def _went_on(before: int) -> bool:
            return reads > before or any(task.done() for task in hammering)

        async with (
            Producer.connect(settings) as producer,
            Reader.connect(small) as reader,
            connected(settings.dsn) as gate,
            running(*parts(settings)),
        ):
            tasks = [append(producer), read(reader, backward=False), read(reader, backward=True)]
            hammering = [asyncio.create_task(each) for each in tasks]
            for _ in range(60 if long else 5):
                before = reads
                await rotate(settings, gate)
                await until(partial(_went_on, before), "reads go on")
            done.set()
            await asyncio.gather(*hammering)


@pytest.mark.parametrize("backward", [False, True])
async def test_a_rotation_between_the_two_reads_hides_nothing(
    apart: Settings, monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    """All events go from the outbox to the index while one read of a stream has asked only one of them."""
    fetch: Any = asyncpg.Connection.fetch
    asked = 0

    async with Producer.connect(apart) as producer, Reader.connect(apart) as reader, connected(apart.dsn) as gate:
        await producer.append("Note-1", noted(3), expected_version=ANY)

        async def interrupted(
            own: "asyncpg.Connection[asyncpg.Record]", query: str, *arguments: object, **options: object
        ) -> list[asyncpg.Record]:
            nonlocal asked
            found: list[asyncpg.Record] = await fetch(own, query, *arguments, **options)
            if "version BETWEEN $2 AND $3" in query:  # a read of a stream, of either database
                asked += 1
                if asked == 1:
                    async with running(*parts(apart)):
                        await rotate(apart, gate)
            return found

        monkeypatch.setattr(asyncpg.Connection, "fetch", interrupted)
        versions = [event.version async for event in reader.stream("Note-1", backward=backward)]
        assert asked == 2
        assert await outbox_events(apart, gate) == 0
        assert sorted(versions) == [1, 2, 3]


async def test_wrong_places_are_named_and_nothing_is_changed(apart: Settings) -> None:
    none = apart.model_copy(update={"index_dsns": ()})
    gates_own = apart.model_copy(update={"index_dsns": (apart.postgres_dsn,)})
    for attempt in (initialise(none), _connect(none)):
        with pytest.raises(IndexPlaceError, match="Set index_dsns"):
            await attempt
    with pytest.raises(IndexPlaceError, match=r"number 0 .* is a gate's database"):
        await initialise(gates_own)
    with pytest.raises(IndexPlaceError, match="made of 1 shards, but index_dsns names 2"):
        await initialise(apart.model_copy(update={"index_dsns": apart.index_dsns * 2}))
    assert await initialise(apart) == []


async def test_the_index_of_a_store_stays_beside_its_gate(settings: Settings, spare_dsns: list[str]) -> None:
    async with sharded(settings, spare_dsns) as moved:
        for attempt in (initialise(moved), _connect(moved)):
            with pytest.raises(IndexPlaceError, match="index is in the gate's own database"):
                await attempt


async def test_a_database_of_another_store_is_named(apart: Settings, spare_dsns: list[str]) -> None:
    """As when a store was dropped and made anew: what its index held is not this store's."""
    async with connected(apart.dsn) as gate:
        await gate.execute(f"DROP SCHEMA {apart.store} CASCADE")
    with pytest.raises(IndexPlaceError, match="number 0 belongs to another store of this name"):
        await initialise(apart)
    with pytest.raises(StoreNotInitialisedError):
        await _connect(apart)
    async with sharded(apart, spare_dsns[1:]) as anew:
        with pytest.raises(IndexPlaceError, match="do not hold the index of one store"):
            await initialise(anew, adopt_index=True)
        await initialise(anew)
        with pytest.raises(IndexPlaceError, match="nothing to adopt: the gate's database is not new"):
            await initialise(apart, adopt_index=True)
        for attempt in (initialise(apart), _connect(apart)):
            with pytest.raises(IndexPlaceError, match="belongs to another store"):
                await attempt


async def _connect(settings: Settings) -> None:
    async with Reader.connect(settings):
        pass
