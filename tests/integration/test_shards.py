"""An index in two databases: each holds its streams, together they are one log; what is lost is refilled."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer as KafkaProducer
from support.apart import connected, noted, outbox_events, parts, rotate
from support.kafka import records_of
from support.models import Noted
from support.processes import background, environment, gatelog
from support.restores import dump, restore
from support.running import running
from support.waiting import until

from gatelog.console import options
from gatelog.console.store import initialise
from gatelog.core.domain import topic_of
from gatelog.core.errors import IndexIncompleteError, IndexPlaceError, SettingsError
from gatelog.core.settings import Settings
from gatelog.core.shards import shard_of
from gatelog.indexer import Indexer
from gatelog.indexer.places import index_pools
from gatelog.indexer.unreadable import UnreadableRecords
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader

STREAMS = [f"{category}-{number}" for category in ("Note", "Memo") for number in range(6)]


def owner(stream: str) -> int:
    return shard_of(stream.encode(), 2)


def of_shard(number: int) -> str:
    return next(stream for stream in STREAMS if owner(stream) == number)


async def fill(producer: Producer, events: int = 2) -> list[str]:
    """Append to every stream, one after the other; return the streams in the order of the positions."""
    for stream in STREAMS:
        await producer.append(stream, noted(events), expected_version=ANY)
    return [stream for stream in STREAMS for _ in range(events)]


async def streams_in(settings: Settings, number: int) -> set[str]:
    async with connected(settings.shard_dsns[number]) as shard:
        return {row["stream"] for row in await shard.fetch(f"SELECT stream FROM {settings.store}.events")}


async def frontier_is(reader: Reader, position: int) -> None:
    async def reached() -> bool:
        return await reader.frontier() >= position

    await until(reached, f"the frontier is at {position}")


async def test_each_shard_holds_its_streams_and_the_log_is_one(shards: Settings) -> None:
    small = shards.model_copy(update={"read_rows_max": 5})
    async with Producer.connect(shards) as producer, Reader.connect(small) as reader, running(*parts(shards)):
        order = await fill(producer)
        await frontier_is(reader, len(order))
        log = [event async for event in reader.all()]
        assert [event.position for event in log] == list(range(1, len(order) + 1))
        assert [event.stream for event in log] == order
        memos = [event.stream async for event in reader.category("Memo", after=3)]
        assert memos == [stream for stream in order[3:] if stream.startswith("Memo-")]
        ones = [event.stream async for event in reader.all(where={"text": "1"}, limit=7)]
        assert ones == STREAMS[:7]
        for stream in STREAMS:
            assert [event.version async for event in reader.stream(stream)] == [1, 2]
        assert await reader.indexed([log[5].id, log[0].id]) == [6, 1]
    for number in range(2):
        assert await streams_in(shards, number) == {stream for stream in STREAMS if owner(stream) == number}


async def test_a_shard_that_lags_holds_the_log_up_and_no_stream(shards: Settings) -> None:
    async with Producer.connect(shards) as producer, Reader.connect(shards) as reader, connected(shards.dsn) as gate:
        order = await fill(producer)
        first_of_other = next(place for place, stream in enumerate(order) if owner(stream) == 1)
        async with running(*parts(shards, shards=[0])):
            await frontier_is(reader, first_of_other)
            async with connected(shards.shard_dsns[0]) as shard:
                count = f"SELECT count(*) FROM {shards.store}.events"
                mine = sum(owner(stream) == 0 for stream in order)

                async def holds_all() -> bool:
                    return bool(await shard.fetchval(count) == mine)

                await until(holds_all, "the one shard holds all that is its")
            assert [event.position async for event in reader.all()] == list(range(1, first_of_other + 1))
            for stream in STREAMS:
                assert [event.version async for event in reader.stream(stream)] == [1, 2]
        async with running(*parts(shards)):
            await rotate(shards, gate)
            await frontier_is(reader, len(order))
            assert await outbox_events(shards, gate) == 0
            for stream in STREAMS:
                assert [event.version async for event in reader.stream(stream)] == [1, 2]


@pytest.mark.parametrize("older", [False, True])
async def test_a_lost_or_restored_shard_is_named_until_it_is_filled_again(
    shards: Settings, older: bool, tmp_path: Path
) -> None:
    """What it lacks has left the outbox: a read that went on would miss it. Kafka has all of it."""
    own = shards.model_copy(update={"postgres_dsn": shards.index_dsns[1]})
    async with Producer.connect(shards) as producer, connected(shards.dsn) as gate:
        async with running(*parts(shards)):
            await fill(producer, 1)
            await rotate(shards, gate)
        await dump(own, tmp_path / "dump.sql")
        async with running(*parts(shards)):
            order = await fill(producer)
            await rotate(shards, gate)
        assert await outbox_events(shards, gate) == 0
        if older:
            await restore(own, tmp_path / "dump.sql")
        else:
            async with connected(own.dsn) as shard:
                await shard.execute(f"DROP SCHEMA {own.store} CASCADE")
            with pytest.raises(IndexPlaceError, match="index_dsns number 1, has no tables of it"):
                await _connect(shards)
            await initialise(shards)
        async with Reader.connect(shards) as reader:
            for read in (reader.version(of_shard(1)), _versions(reader, of_shard(1))):
                with pytest.raises(IndexIncompleteError, match="shard 1 of the index is whole up to position"):
                    await read
            assert await _versions(reader, of_shard(0)) == [1, 2, 3]
            async with running(*parts(shards)):
                await frontier_is(reader, len(STREAMS) + len(order))
                for stream in STREAMS:
                    assert await _versions(reader, stream) == [1, 2, 3]
                assert len([event async for event in reader.all()]) == len(STREAMS) + len(order)


async def test_the_order_and_the_number_of_shards_are_pinned(shards: Settings) -> None:
    first, second = shards.index_dsns
    for dsns, why in (
        ((second, first), "is shard [01] .* but index_dsns has it as shard [01]"),
        ((first,), "made of 2 shards, but index_dsns names 1"),
        ((first, first), "is shard 0 .* but index_dsns has it as shard 1"),
    ):
        wrong = shards.model_copy(update={"index_dsns": dsns})
        for attempt in (initialise(wrong), _connect(wrong), _index(wrong, len(dsns) - 1)):
            with pytest.raises(IndexPlaceError, match=why):
                await attempt
    with pytest.raises(SettingsError, match="no shard 2 of the index: its shards are 0 to 1"):
        Indexer(shards, 2)
    with pytest.raises(SettingsError, match="name one, --shard 0 to 1"):
        options.shard_of(shards, None)
    assert await initialise(shards) == []


async def test_strange_records_are_kept_once(shards: Settings) -> None:
    """A key that is not the stream's would put a row where nobody looks for it."""
    theirs, ours = of_shard(0), of_shard(1)
    async with Producer.connect(shards) as producer, Reader.connect(shards) as reader, running(*parts(shards)):
        done = await producer.append(ours, [Noted(text="x")], expected_version=ANY)
        await reader.indexed(done.event_ids)
        (record,) = await asyncio.to_thread(records_of, shards)
        headers = [(name, value.encode()) for name, value in {**record.headers, "ce_position": "9"}.items()]
        writer = KafkaProducer({"bootstrap.servers": shards.kafka_properties["bootstrap.servers"]})
        topic = topic_of(shards.store, ours.partition("-")[0])
        writer.produce(topic, key=theirs, value=record.value, headers=list(headers), partition=record.partition)
        writer.produce(topic, key=None, value=b"\x01", headers=list(headers), partition=record.partition)
        writer.flush(20)
        for stream in (theirs, ours):
            done = await producer.append(stream, [Noted(text="y")], expected_version=ANY)
        await reader.indexed(done.event_ids)

        async def are_kept() -> bool:
            return await _unreadable(shards, 0) == ["its key is not", "a header or the"]

        await until(are_kept, "the first shard has set both aside")
        assert await _unreadable(shards, 1) == []
        async with index_pools(shards, 0, "test", 2) as (own, gate, shard):
            records = UnreadableRecords(own, gate, shard)
            assert [each.value_bytes for each in await records.list()] == [len(record.value), 1]
            assert "another shard" in "".join([each.what async for each in records.retry()])
        assert await _versions(reader, ours) == [1, 2]


async def test_processes_that_are_killed_lose_and_double_nothing(shards: Settings, tmp_path: Path) -> None:
    """`gatelog run` with both shards, and an indexer of one of them beside it."""
    env = environment(
        shards,
        GATELOG_OUTBOX_SEGMENT_EVENTS="20",
        GATELOG_INDEX_ROWS_MAX="5",
    )
    async with Producer.connect(shards) as producer, Reader.connect(shards) as reader:
        acknowledged: list[str] = []
        with (
            background(["run"], env, tmp_path / "run.log") as first,
            background(["indexer", "--shard", "1"], env, tmp_path / "indexer.log") as other,
        ):
            acknowledged += await fill(producer, 5)
            await frontier_is(reader, 1)
            first.kill()
            other.kill()
        with background(["run"], env, tmp_path / "run.log") as last:
            acknowledged += await fill(producer)
            await frontier_is(reader, len(acknowledged))
            shown = gatelog(["status", "--json"], env, tmp_path)
            assert shown.returncode == 0, shown.stderr
            assert last.stop() == 0
        log = [event async for event in reader.all()]
        assert [event.stream for event in log] == acknowledged
        assert [event.position for event in log] == list(range(1, len(log) + 1))
    status = orjson.loads(shown.stdout.splitlines()[-1])
    assert status["index"]["frontier"] == len(acknowledged)
    assert [each["frontier"] for each in status["index_shards"]] == [len(acknowledged)] * 2


async def _versions(reader: Reader, stream: str) -> list[int]:
    return [event.version async for event in reader.stream(stream)]


async def _unreadable(settings: Settings, number: int) -> Sequence[str]:
    async with connected(settings.shard_dsns[number]) as shard:
        rows = await shard.fetch(
            f'SELECT left(reason, 15) AS why FROM {settings.store}.unreadable_records ORDER BY "offset"'
        )
    return [row["why"].strip() for row in rows]


async def _connect(settings: Settings) -> None:
    async with Reader.connect(settings):
        pass


async def _index(settings: Settings, number: int) -> None:
    await Indexer(settings, number).run(asyncio.Event())
