"""An index in other databases is rebuilt there, shard by shard, while it is read; a lost database comes back."""

import asyncio
import json
from functools import partial
from pathlib import Path

import pytest
from support.apart import connected, noted, outbox_events, parts, rotate
from support.databases import sharded
from support.losses import empty_index, lose_topic
from support.processes import background, environment, gatelog
from support.running import running
from support.waiting import until
from support.watching import PAUSE_S, Watch

from gatelog.console.store import initialise
from gatelog.core.errors import IndexIncompleteError, RebuildRefusedError, SettingsError
from gatelog.core.settings import Settings
from gatelog.core.shards import shard_of
from gatelog.indexer.rebuild import rebuild
from gatelog.producer import ANY, Producer
from gatelog.producer.elsewhere.frontier import FrontierKeeper
from gatelog.reader import Reader

STREAMS = [f"{category}-{number}" for category in ("Note", "Memo") for number in range(2, 6)]


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


def of_shard(number: int) -> str:
    return next(stream for stream in STREAMS if shard_of(stream.encode(), 2) == number)


async def fill(settings: Settings, events: int) -> int:
    """Append, publish, index, and take all of it out of the outbox; return the last position."""
    async with (
        Producer.connect(settings) as producer,
        Reader.connect(settings) as reader,
        connected(settings.dsn) as gate,
        running(*parts(settings)),
    ):
        for stream in STREAMS:
            await producer.append(stream, noted(events), expected_version=ANY)
        await rotate(settings, gate)
        assert await outbox_events(settings, gate) == 0
        return await reader.frontier()


async def whole(settings: Settings, events: int) -> None:
    """Streams and log are whole, with nothing running."""
    async with Reader.connect(settings) as reader:
        for stream in STREAMS:
            assert [event.version async for event in reader.stream(stream)] == list(range(1, events + 1))
        positions = [event.position async for event in reader.all()]
        assert positions == list(range(1, len(STREAMS) * events + 1))


async def oid(settings: Settings, shard: int) -> int:
    async with connected(settings.shard_dsns[shard]) as connection:
        return int(await connection.fetchval(f"SELECT '{settings.store}.events'::regclass::oid"))


@pytest.mark.parametrize("number", [1, 2])
async def test_reads_appends_and_indexing_go_on_while_shards_are_rebuilt(
    bare_settings: Settings, spare_dsns: list[str], number: int
) -> None:
    async with sharded(bare_settings, spare_dsns[:number]) as settings:
        await initialise(settings)
        await rebuild_each_while_it_is_used(settings, number)


async def rebuild_each_while_it_is_used(settings: Settings, number: int) -> None:
    counts: dict[str, int] = {}
    stop = asyncio.Event()

    async def keep_appending(producer: Producer) -> None:
        nth = 0
        while not stop.is_set():
            stream = STREAMS[nth % len(STREAMS)]
            counts[stream] = (await producer.append(stream, noted(3), expected_version=ANY)).version
            nth += 1
            await asyncio.sleep(PAUSE_S)

    async with (
        Producer.connect(settings) as producer,
        Reader.connect(settings) as reader,
        connected(settings.dsn) as gate,
        running(*parts(settings)),
    ):
        appending = asyncio.create_task(keep_appending(producer))

        async def has_grown() -> bool:
            return await reader.frontier() > 60

        await until(has_grown, "there is something to rebuild")
        await rotate(settings, gate)
        async with Watch(settings, counts).watching():
            for shard in range(number):
                before = await oid(settings, shard)
                done = await rebuild(settings, silent, shard=shard)
                assert done.frontier >= 60
                assert await oid(settings, shard) != before
                await rotate(settings, gate)
        stop.set()
        await appending
        total = sum(counts.values())

        async def is_indexed() -> bool:
            return await reader.frontier() == total

        await until(is_indexed, f"the live indexers go on, up to {total}")
        assert len([event async for event in reader.all()]) == total


async def test_a_lost_database_is_rebuilt_by_processes_that_are_killed(shards: Settings, tmp_path: Path) -> None:
    """Another, empty one in its place; the other shard answers all the time. The log is whole without any relay."""
    total = await fill(shards, 100)
    async with connected(shards.shard_dsns[1]) as shard, Reader.connect(shards) as reader:
        await shard.execute(f"DROP SCHEMA {shards.store} CASCADE")
        await initialise(shards)

        async def rows() -> int:
            if await shard.fetchval("SELECT to_regclass($1)", f"{shards.store}_rebuild.events") is None:
                return 0
            return int(await shard.fetchval(f"SELECT count(*) FROM {shards.store}_rebuild.events"))

        async def has_begun() -> bool:
            return await rows() > 0

        command = ["index", "rebuild", "--shard", "1"]
        slow = environment(shards, GATELOG_INDEX_ROWS_MAX="5")
        with background(command, slow, tmp_path / "rebuild.log") as process:
            await until(has_begun, "it has begun")
            process.kill()
        kept = await rows()
        with pytest.raises(IndexIncompleteError):
            await reader.version(of_shard(1))
        assert await reader.version(of_shard(0)) == 100
        done = await asyncio.to_thread(gatelog, [*command, "--json"], environment(shards), tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["shard"], report["resumed"], report["frontier"]) == (1, kept > 0, total)
    assert report["records"] <= total - kept
    await whole(shards, 100)


async def test_all_shards_that_lost_their_rows(shards: Settings, tmp_path: Path) -> None:
    """The rows are gone, the offsets and frontiers are not: what a frontier says is walked again before it counts."""
    total = await fill(shards, 3)
    for dsn in shards.index_dsns:
        await empty_index(shards.model_copy(update={"postgres_dsn": dsn}))
    first = await rebuild(shards, silent, shard=0)
    assert first.frontier < total, "one shard alone cannot tell"
    assert await FrontierKeeper(shards).reach() == first.frontier
    done = await asyncio.to_thread(gatelog, ["index", "rebuild", "--json"], environment(shards), tmp_path)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["shard"], last["frontier"]) == (1, total)
    await whole(shards, 3)


async def test_a_walk_that_began_before_the_frontier_went_back_says_nothing(shards: Settings) -> None:
    """The keeper of the frontier may be on its way while a rebuild finds that a shard lacked events."""
    total = await fill(shards, 2)
    async with connected(shards.shard_dsns[0]) as shard:
        raise_frontier = f"SELECT {shards.store}.raise_frontier($1, $2)"
        frontier = partial(shard.fetchval, f"SELECT position FROM {shards.store}.index_frontier")
        await shard.execute(raise_frontier, total + 1, total + 5)
        assert await frontier() == total
        await shard.execute(raise_frontier, total, total + 5)
        assert await frontier() == total + 5


async def test_a_shard_that_kafka_cannot_fill_stays(shards: Settings) -> None:
    await fill(shards, 2)
    await lose_topic(shards, "Memo")
    mine = sum(stream.startswith("Memo-") for stream in STREAMS if shard_of(stream.encode(), 2) == 1)
    with pytest.raises(RebuildRefusedError, match=f"live index holds {2 * mine} events at positions"):
        await rebuild(shards, silent, shard=1)
    await whole(shards, 2)
    with pytest.raises(SettingsError, match="no shard 2"):
        await rebuild(shards, silent, shard=2)
