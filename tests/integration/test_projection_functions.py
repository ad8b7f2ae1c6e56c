"""What a projection's function may do to its transaction: it fails by name and with its cause, or is well."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal

import asyncpg
import pytest
from support.models import Noted
from support.projections import Connection, at_work, fill, has, positions, schema_of

from gatelog.core.consumer_errors import ProjectionFailedError, SessionChangedError, TransactionEndedError
from gatelog.core.errors import InvalidInputError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Projection
from gatelog.schemas import RecordedEvent

Order = Literal["partition", "total"]
Step = Callable[[Connection, RecordedEvent], Awaitable[None]]
BAD = "13"  # the text of the event that is treated badly
SEEN = "CREATE TABLE seen (nth bigint GENERATED ALWAYS AS IDENTITY, position bigint PRIMARY KEY)"


@pytest.fixture(params=["partition", "total"])
def order(request: pytest.FixtureRequest) -> Order:
    chosen: Order = request.param
    return chosen


def writing(settings: Settings, order: Order, bad: Step) -> Projection:
    """Return a projection that writes each event, and does ``bad`` after one of them."""
    projection = Projection("kept", categories=["Note"], order=order, schema=schema_of("kept", settings))

    @projection.set_up
    async def tables(connection: Connection) -> None:
        await connection.execute(SEEN)

    @projection.batch
    async def keep(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        for event in events:
            assert isinstance(event.data, Noted)
            with suppress(asyncpg.InFailedSQLTransactionError):  # as whoever catches every error of the database
                await connection.execute("INSERT INTO seen (position) VALUES ($1)", event.position)
            if event.data.text == BAD:
                await bad(connection, event)

    return projection


async def failed(settings: Settings, producer: Producer, projection: Projection, events: int = 20) -> BaseException:
    """Return the cause of a projection's failure; everything before the bad event is kept, nothing of it."""
    await projection.prepare(settings)
    await fill(producer, events, ["Note"])
    async with asyncio.timeout(60):
        with pytest.raises(ProjectionFailedError) as raised:
            await projection.run(asyncio.Event(), settings)
    assert raised.value.version == 2, "the second round over seven streams"
    assert raised.value.__cause__ is not None
    return raised.value.__cause__


async def caught(connection: Connection, event: RecordedEvent) -> None:
    with suppress(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO seen (position) VALUES ($1)", event.position)


async def test_an_error_that_the_function_caught_has_failed_the_event(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, order: Order
) -> None:
    """Postgres answers COMMIT with ROLLBACK, and asyncpg says nothing: the checkpoint had moved in memory only."""
    assert isinstance(
        await failed(settings, producer, writing(settings, order, caught)), asyncpg.UniqueViolationError
    )
    assert len(await positions(rows, schema_of("kept", settings))) < 20


async def test_an_error_in_a_savepoint_that_was_rolled_back_is_none(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, order: Order
) -> None:
    async def in_savepoint(connection: Connection, event: RecordedEvent) -> None:
        with suppress(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO seen (position) VALUES ($1)", event.position)

    projection = writing(settings, order, in_savepoint)
    await projection.prepare(settings)
    await fill(producer, 20, ["Note"])
    async with at_work(settings, projection):
        await has(rows, schema_of("kept", settings), 20)
    assert sorted(await positions(rows, schema_of("kept", settings))) == list(range(1, 21))


async def test_a_caught_error_is_told_from_one_that_was_legal(
    settings: Settings, producer: Producer, pipeline: None, order: Order
) -> None:
    async def both(connection: Connection, event: RecordedEvent) -> None:
        with suppress(asyncpg.UndefinedTableError):
            async with connection.transaction():
                await connection.execute("SELECT FROM not_there")
        await caught(connection, event)
        await connection.execute("SELECT 1")  # raises what does not say why

    assert isinstance(await failed(settings, producer, writing(settings, order, both)), asyncpg.UniqueViolationError)


async def test_a_single_event_that_fails_so_is_named_too(
    settings: Settings, producer: Producer, pipeline: None, order: Order
) -> None:
    projection = Projection("single", categories=["Note"], order=order)

    @projection.batch
    async def divide(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        with suppress(asyncpg.DivisionByZeroError):
            await connection.execute("SELECT 1/0")

    await projection.prepare(settings)
    await fill(producer, 1, ["Note"])
    async with asyncio.timeout(60):
        with pytest.raises(ProjectionFailedError) as raised:
            await projection.run(asyncio.Event(), settings)
    assert isinstance(raised.value.__cause__, asyncpg.DivisionByZeroError)


async def test_statements_at_once_on_the_one_connection_have_failed_the_event(
    settings: Settings, producer: Producer, pipeline: None, order: Order
) -> None:
    async def at_once(connection: Connection, event: RecordedEvent) -> None:
        await asyncio.gather(*(connection.execute("SELECT pg_sleep(0.1)") for _ in range(2)))

    cause = await failed(settings, producer, writing(settings, order, at_once))
    assert isinstance(cause, asyncpg.InterfaceError)


async def test_a_statement_that_runs_on_after_the_function_has_failed_the_event(
    settings: Settings, producer: Producer, pipeline: None, order: Order
) -> None:
    """The driver's "another operation is in progress" was taken for a Postgres that does not answer: for ever."""
    left = []

    async def leaving(connection: Connection, event: RecordedEvent) -> None:
        left.append(asyncio.create_task(connection.execute("SELECT pg_sleep(0.2)")))
        await asyncio.sleep(0)

    cause = await failed(settings, producer, writing(settings, order, leaving))
    assert isinstance(cause, asyncpg.InterfaceError)
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize("ending", ["COMMIT; BEGIN", "ROLLBACK; BEGIN"])
async def test_a_function_that_goes_on_in_another_transaction_has_ended_its_own(
    settings: Settings, producer: Producer, pipeline: None, order: Order, ending: str
) -> None:
    async def end(connection: Connection, event: RecordedEvent) -> None:
        await connection.execute(ending)

    projection = writing(settings, order, end)
    await projection.prepare(settings)
    await fill(producer, 20, ["Note"])
    async with asyncio.timeout(60):
        with pytest.raises(TransactionEndedError, match="COMMIT"):
            await projection.run(asyncio.Event(), settings)


async def test_a_function_that_changes_the_search_path_for_good_is_stopped(
    settings: Settings, producer: Producer, pipeline: None, order: Order
) -> None:
    """Later batches would write elsewhere, and those of a rebuild into the live read model."""
    arrived = asyncio.Event()

    async def change(connection: Connection, event: RecordedEvent) -> None:
        await connection.execute(f'SET search_path = "{schema_of("kept", settings)}"')
        arrived.set()

    projection = writing(settings, order, change)
    await projection.prepare(settings)
    await fill(producer, 14, ["Note"])
    async with asyncio.timeout(60):
        running = asyncio.create_task(projection.run(asyncio.Event(), settings))
        await arrived.wait()
        await fill(producer, 7, ["Note"])
        with pytest.raises(SessionChangedError, match="SET LOCAL"):
            await running


async def test_what_ends_with_the_transaction_is_the_functions_own_affair(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, order: Order
) -> None:
    async def at_home(connection: Connection, event: RecordedEvent) -> None:
        await connection.execute("SET LOCAL search_path = pg_catalog")
        await connection.execute("LISTEN something")
        await connection.prepare("SELECT 1")
        await connection.transaction().start()
        await connection.cursor("SELECT 1")

    projection = writing(settings, order, at_home)
    await projection.prepare(settings)
    await fill(producer, 14, ["Note"])
    async with at_work(settings, projection):
        await has(rows, schema_of("kept", settings), 14)
        await fill(producer, 7, ["Note"])
        await has(rows, schema_of("kept", settings), 21)


async def test_a_set_up_that_caught_an_error_has_failed(settings: Settings, rows: Connection) -> None:
    """It was "prepared", and nothing of it was there."""
    projection = Projection("caught", schema=schema_of("caught", settings))

    @projection.set_up
    async def tables(connection: Connection) -> None:
        await connection.execute(SEEN)
        with suppress(asyncpg.DuplicateTableError):
            await connection.execute(SEEN)

    with pytest.raises(InvalidInputError, match="set-up failed"):
        await projection.prepare(settings)
