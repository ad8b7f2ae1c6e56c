"""Projections: exactly once, over partitions or in total order; failures, rebuilding, waiting, another database."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Literal

import asyncpg
import pytest
from support.models import Noted
from support.projections import Connection, at_work, fill, has, keeping, positions, schema_of
from support.reconciling import indexed_upto
from support.waiting import until

from gatelog.core.consumer_errors import (
    ProjectionFailedError,
    ProjectionNotPreparedError,
    ProjectionReplacedError,
    TransactionEndedError,
)
from gatelog.core.errors import InvalidInputError, WaitTimeoutError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Projection, Reader, follow
from gatelog.schemas import RecordedEvent

ORDERS: tuple[Literal["partition", "total"], ...] = ("partition", "total")


@pytest.mark.parametrize("order", ORDERS)
async def test_every_event_is_in_it_once_and_in_order(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, order: Literal["partition", "total"]
) -> None:
    projection = keeping("all", settings, order=order)
    await projection.prepare(settings)
    await projection.prepare(settings)
    schema = schema_of("all", settings)
    await fill(producer, 60)
    new = ("New", "Note") if order == "total" else ("Page", "Note")  # a group takes 10 s to see a topic that is new
    async with at_work(settings, projection):
        await has(rows, schema, 60)
        await fill(producer, 30, new)
        await has(rows, schema, 90)
    await fill(producer, 30)
    async with at_work(settings, projection):
        await has(rows, schema, 120)
    found = await positions(rows, schema)
    assert sorted(found) == list(range(1, 121))
    assert order == "partition" or found == sorted(found)
    assert await rows.fetchval(f'SELECT sum(events) FROM "{schema}".totals') == 120


async def test_total_order_of_some_categories(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None, rows: Connection
) -> None:
    projection = keeping("some", settings, order="total", categories=["Note", "Page", "Later", "Never"])
    await projection.prepare(settings)
    schema = schema_of("some", settings)
    await fill(producer, 60)
    async with at_work(settings, projection):
        await has(rows, schema, 40)
        await fill(producer, 60, ("Later", "Bill", "Note"))
        await has(rows, schema, 80)
    await until(partial(indexed_upto, reader, 120), "the index, which is compared, has come as far")
    expected = [event.position async for event in reader.category("Note", "Page", "Later")]
    assert await positions(rows, schema) == expected


async def test_an_event_that_fails_is_named_and_everything_before_it_is_kept(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection
) -> None:
    projection = Projection(
        "fragile", categories=["Note"], types=[Noted], order="total", schema=f"{settings.store}_f"
    )
    is_broken = True

    @projection.set_up
    async def tables(connection: Connection) -> None:
        await connection.execute(
            "CREATE TABLE seen (nth int GENERATED ALWAYS AS IDENTITY, position bigint, text text)"
        )

    @projection.batch
    async def keep(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        for event in events:
            assert isinstance(event.data, Noted)
            await connection.execute(
                "INSERT INTO seen (position, text) VALUES ($1, $2)", event.position, event.data.text
            )
            if event.data.text == "37" and is_broken:
                await connection.execute("SELECT * FROM not_there")

    await projection.prepare(settings)
    await fill(producer, 50, ["Note"])
    with pytest.raises(ProjectionFailedError, match="Note-2") as raised:
        await projection.run(asyncio.Event(), settings)
    assert isinstance(raised.value.__cause__, asyncpg.UndefinedTableError)
    assert await positions(rows, f"{settings.store}_f") == list(range(1, raised.value.position or 0))
    is_broken = False
    async with at_work(settings, projection):
        await has(rows, f"{settings.store}_f", 50)
    assert await positions(rows, f"{settings.store}_f") == list(range(1, 51))


async def test_a_function_that_meets_a_cancellation_has_failed(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection
) -> None:
    """It ended `run` without a word, as if the projection had been stopped."""
    projection = Projection("cancelled", categories=["Note"])

    @projection.batch
    async def meet(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        raise asyncio.CancelledError  # of a task that it waited for

    await projection.prepare(settings)
    await fill(producer, 3, ["Note"])
    async with asyncio.timeout(60):
        with pytest.raises(ProjectionFailedError) as raised:
            await projection.run(asyncio.Event(), settings)
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


async def test_a_function_that_ends_the_transaction_is_not_called_again(
    settings: Settings, producer: Producer, pipeline: None
) -> None:
    """Each call would be stored once more."""
    projection, calls = Projection("committing", categories=["Note"]), 0

    @projection.batch
    async def commit(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        nonlocal calls
        calls += 1
        await connection.execute("COMMIT")

    await projection.prepare(settings)
    await fill(producer, 3, ["Note"])
    async with asyncio.timeout(60):
        with pytest.raises(TransactionEndedError, match="COMMIT"):
            await projection.run(asyncio.Event(), settings)
    assert calls == 1


@pytest.mark.parametrize("order", ORDERS)
async def test_members_share_the_work_or_stand_by(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, order: Literal["partition", "total"]
) -> None:
    schema = schema_of("shared", settings)
    members = [keeping("shared", settings, by=name, order=order) for name in ("a", "b", "c")]
    await members[0].prepare(settings)
    await fill(producer, 30)
    async with at_work(settings, members[0], members[1]):
        await has(rows, schema, 30)
        async with at_work(settings, members[2]):
            await has(rows, schema, await fill(producer, 60) + 30)
        await has(rows, schema, await fill(producer, 30) + 90)
    found = await positions(rows, schema)
    assert sorted(found) == list(range(1, 121))
    assert order == "partition" or found == sorted(found)


async def test_a_rebuild_stands_beside_the_live_one_and_takes_its_place(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection
) -> None:
    schema = schema_of("model", settings)
    first = keeping("model", settings, by="first")
    await first.prepare(settings)
    await fill(producer, 60)
    async with at_work(settings, first):
        await has(rows, schema, 60)
        again = keeping("model", settings, by="again")
        rebuilding = asyncio.create_task(again.rebuild(asyncio.Event(), settings))
        written = 60
        while not rebuilding.done():  # the live one goes on meanwhile, and is never seen to go back
            written += await fill(producer, 5)
            assert await rows.fetchval(f'SELECT count(*) >= 60 FROM "{schema}".seen')
        assert await rebuilding
        assert [p.state for p in await first.progress(settings)] == ["retired", "live"]
        await has(rows, schema, written + await fill(producer, 5))
        written += 5
    assert sorted(await positions(rows, schema)) == list(range(1, written + 1))
    by = {row[0] for row in await rows.fetch(f'SELECT DISTINCT by FROM "{schema}".seen')}
    assert "again" in by
    assert await rows.fetchval(f"SELECT count(*) FROM \"{schema}_b1\".seen WHERE by = 'first'") >= 60
    await first.drop(1, settings)
    with pytest.raises(InvalidInputError, match="is live"):
        await first.drop(2, settings)
    assert await rows.fetchval("SELECT to_regnamespace($1)", f"{schema}_b1") is None


async def test_where_builds_stand(settings: Settings, producer: Producer, pipeline: None, rows: Connection) -> None:
    live = keeping("model", settings)
    await live.prepare(settings)
    (standing,) = await live.standing(settings)
    assert (standing.state, standing.is_active, standing.lag_positions) == ("live", False, None), "not begun"
    await fill(producer, 60)
    async with at_work(settings, live):
        await has(rows, schema_of("model", settings), 60)
    again, go_on = Projection("model", schema=schema_of("model", settings)), asyncio.Event()

    @again.batch
    async def wait(_connection: Connection, _events: Sequence[RecordedEvent]) -> None:
        await go_on.wait()

    rebuilding = asyncio.create_task(again.rebuild(asyncio.Event(), settings))

    async def has_begun() -> bool:
        found = await live.standing(settings)
        return len(found) == 2 and found[1].is_active and found[1].lag_positions == 60

    await until(has_begun, "a member of the new build has all partitions")
    standing, building = await live.standing(settings)
    assert (standing.state, standing.is_active, standing.events) == ("live", False, 60)
    assert (standing.lag_positions, standing.lag_s, standing.done) == (0, 0.0, None)
    assert (building.state, building.events, building.done) == ("building", 0, 0.0)
    assert building.lag_s is not None
    assert building.lag_s > 0
    go_on.set()
    assert await rebuilding
    assert [each.state for each in await live.standing(settings)] == ["retired", "live"]


async def test_a_newer_version_is_built_beside_the_older_one_which_then_ends(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection
) -> None:
    schema = schema_of("model", settings)
    old, new = keeping("model", settings, by="old"), keeping("model", settings, by="new", version=2)
    await old.prepare(settings)
    await fill(producer, 40)
    stop = asyncio.Event()
    running_old = asyncio.create_task(old.run(stop, settings))
    await has(rows, schema, 40)
    async with at_work(settings, new):
        await until(lambda: _is_live(new, settings, 2), "the new version is live")
        await fill(producer, 40)
        with pytest.raises(ProjectionReplacedError, match="version 2"):
            await asyncio.wait_for(running_old, 60)
        await has(rows, schema, 80)
    assert {row[0] for row in await rows.fetch(f'SELECT DISTINCT by FROM "{schema}".seen')} == {"new"}
    assert sorted(await positions(rows, schema)) == list(range(1, 81))
    with pytest.raises(ProjectionReplacedError):
        await old.run(asyncio.Event(), settings)


async def _is_live(projection: Projection, settings: Settings, version: int) -> bool:
    return any(p.version == version and p.state == "live" for p in await projection.progress(settings))


async def test_waiting_until_an_append_is_in_it(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None, rows: Connection
) -> None:
    projection = keeping("waited", settings, categories=["Note", "Bill"], types=[Noted])
    await projection.prepare(settings)
    schema = schema_of("waited", settings)
    done = await producer.append("Note-0", [Noted(text="first")], expected_version=ANY)
    await producer.append("Bill-0", [Noted(text="first")], expected_version=ANY)
    await reader.indexed(done.event_ids)
    async with at_work(settings, projection), projection.watched(settings) as watch:
        for number in range(1, 11):
            done = await producer.append(f"Note-{number}", [Noted(text="x")], expected_version=ANY)
            await watch.seen(done)
            assert (
                await rows.fetchval(f'SELECT count(*) FROM "{schema}".seen WHERE stream = $1', f"Note-{number}") == 1
            )
        done = await producer.append("Bill-1", [Noted(text="x"), Noted(text="y")], expected_version=ANY)
        position = max(await reader.indexed(done.event_ids))
        await projection.seen(position, settings=settings)
        assert await rows.fetchval(f'SELECT count(*) FROM "{schema}".seen WHERE stream = $1', "Bill-1") == 2
        elsewhere = await producer.append("Other-1", [Noted(text="x")], expected_version=ANY)
        with pytest.raises(InvalidInputError, match="never sees"):
            await watch.seen(elsewhere)
        (progress,) = await watch.progress()
        assert (progress.events, progress.behind, progress.state) == (14, 0, "live")
    done = await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)
    with pytest.raises(WaitTimeoutError, match="Note-1"):
        await projection.seen(done, timeout=0.5, settings=settings)


async def test_a_read_model_in_another_database(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection
) -> None:
    name = f"{settings.store}_other"
    await rows.execute(f"CREATE DATABASE {name}")
    dsn = settings.dsn.rpartition("/")[0] + f"/{name}"
    other = await asyncpg.connect(dsn)
    try:
        projection = keeping("far", settings, postgres_dsn=dsn)
        with pytest.raises(ProjectionNotPreparedError, match="gatelog projection prepare"):
            await projection.run(asyncio.Event(), settings)
        await projection.prepare(settings)
        await fill(producer, 40)
        async with at_work(settings, projection):
            await has(other, schema_of("far", settings), 40)
        assert sorted(await positions(other, schema_of("far", settings))) == list(range(1, 41))
        assert await rows.fetchval(f'SELECT count(*) FROM "{settings.store}".projection_builds') == 0
    finally:
        await other.close()
        await rows.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_only_what_comes_after_a_position(
    settings: Settings, producer: Producer, pipeline: None, reader: Reader, rows: Connection
) -> None:
    await fill(producer, 60)
    for order in ORDERS:
        projection = keeping(f"late{order}", settings, order=order, start_after=45)
        await projection.prepare(settings)
    await until(lambda: _is_indexed(reader, 60), "all is indexed")
    for order in ORDERS:
        projection = keeping(f"late{order}", settings, order=order, start_after=45)
        async with at_work(settings, projection):
            await has(rows, schema_of(f"late{order}", settings), 15)
        assert sorted(await positions(rows, schema_of(f"late{order}", settings))) == list(range(46, 61))


async def _is_indexed(reader: Reader, position: int) -> bool:
    return await reader.frontier() >= position


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="characters"):
        Projection("")
    with pytest.raises(InvalidInputError, match="version"):
        Projection("x", version=0)
    with pytest.raises(InvalidInputError, match="async"):
        Projection("x").batch(lambda _connection, _events: None)  # type: ignore[type-var] # the point


async def test_following_in_total_order_from_a_position(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None
) -> None:
    await fill(producer, 40)
    await until(lambda: _is_indexed(reader, 40), "all is indexed")
    stop = asyncio.Event()
    found = []
    async for event in follow(after=15, categories=["Note", "Page"], settings=settings, stop=stop):
        found.append(event.position)
        if len(found) == 16:
            await fill(producer, 20, ["Page", "Bill"])
        if len(found) == 26:
            stop.set()
    await until(lambda: _is_indexed(reader, 60), "what Kafka told is indexed too")
    expected = [event.position async for event in reader.category("Note", "Page", after=15)]
    assert found == expected[:26]
    with pytest.raises(InvalidInputError, match="positions begin"):
        await anext(follow(after=-1, settings=settings))


async def test_a_schema_with_tables_of_others_is_refused(settings: Settings, rows: Connection) -> None:
    """A rebuild would have renamed it, tables and all, and a drop removed them: those of the store, for example."""

    async def tables(connection: Connection) -> None:
        await connection.execute("CREATE TABLE IF NOT EXISTS spent (cents bigint)")

    wrong = Projection("totals", schema=settings.store)
    wrong.set_up(tables)
    with pytest.raises(InvalidInputError, match="one of its own"):
        await wrong.prepare(settings)
    right = Projection("totals", schema=f"{settings.store}_own")
    right.set_up(tables)
    for _ in range(2):
        await right.prepare(settings)
    assert await rows.fetchval("SELECT to_regclass($1)::text", f"{settings.store}_own.spent") is not None
