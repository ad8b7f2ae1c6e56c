"""Appends inside the caller's own transaction, and what an open transaction means for everybody else."""

import asyncio

import asyncpg
import pytest
from support.models import Noted
from support.running import running

from gatelog.core.errors import (
    AppendTimeoutError,
    ConflictError,
    InvalidInputError,
    StreamNotFoundError,
    WaitTimeoutError,
)
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, NO_STREAM, HistoricEvent, Loaded, Producer, StreamAppend
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import NewEvent


@pytest.fixture
async def orders(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> str:
    """A business table beside the store."""
    name = f"{settings.store}.orders"
    await connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")
    return name


async def test_rows_and_events_commit_together(
    producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", orders: str
) -> None:
    async with connection.transaction():
        await connection.execute(f"INSERT INTO {orders} VALUES (1)")
        done = await producer.append(
            "Order-1", [Noted(text="placed")], expected_version=NO_STREAM, connection=connection
        )
        more = await producer.append_streams(
            [StreamAppend("Order-1", [Noted(text="paid")], 1), StreamAppend("Bill-1", [Noted(text="made")], 0)],
            connection=connection,
        )
        assert await reader.version("Order-1") == 0, "nobody else sees it before the commit"
    assert (done.version, [each.version for each in more]) == (1, [2, 1])
    assert await reader.version("Order-1") == 2
    assert await connection.fetchval(f"SELECT count(*) FROM {orders}") == 1


async def test_rollback_leaves_nothing(
    producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", orders: str
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"INSERT INTO {orders} VALUES (1)")
    await producer.append("Order-1", [Noted(text="placed")], expected_version=NO_STREAM, connection=connection)
    await transaction.rollback()
    with pytest.raises(StreamNotFoundError):
        [event async for event in reader.stream("Order-1")]
    done = await producer.append("Order-1", [Noted(text="placed")], expected_version=NO_STREAM)
    assert done.version == 1
    assert await connection.fetchval(f"SELECT count(*) FROM {orders}") == 0


async def test_a_refused_append_leaves_the_transaction_usable(
    producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", orders: str
) -> None:
    async with connection.transaction():
        with pytest.raises(ConflictError):
            await producer.append("Order-1", [Noted(text="x")], expected_version=3, connection=connection)
        await connection.execute(f"INSERT INTO {orders} VALUES (1)")
        await producer.append("Order-1", [Noted(text="y")], expected_version=0, connection=connection)
    assert await reader.version("Order-1") == 1


async def test_a_connection_without_a_transaction_is_refused(
    producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with pytest.raises(InvalidInputError, match="no transaction open"):
        await producer.append("Order-1", [Noted(text="x")], expected_version=ANY, connection=connection)


async def test_an_open_transaction_delays_only_its_own_streams(
    producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """While it is open, hundreds of appends to other streams, sent in the same batches, are answered."""
    await producer.append("Order-1", [Noted(text="0")], expected_version=NO_STREAM)
    transaction = connection.transaction()
    await transaction.start()
    for stream in ("Order-1", "Order-2"):  # one that exists, and one that only this transaction knows
        await producer.append(stream, [Noted(text="1")], expected_version=ANY, connection=connection)
    held = [
        asyncio.ensure_future(producer.append(stream, [Noted(text=text)], expected_version=ANY))
        for text in "23"
        for stream in ("Order-1", "Order-2")
    ]
    for number in range(20):
        others = [
            producer.append(f"Note-{number}-{n}", [Noted(text="x")], expected_version=NO_STREAM) for n in range(20)
        ]
        assert [done.version for done in await asyncio.gather(*others)] == [1] * 20
    assert not any(answer.done() for answer in held)
    await transaction.commit()
    assert [done.version for done in await asyncio.gather(*held)] == [3, 2, 4, 3]
    texts = [event.data.text async for event in reader.stream("Order-1") if isinstance(event.data, Noted)]
    assert texts == ["0", "1", "2", "3"]


async def test_a_timed_out_append_tells_on_repetition(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    hasty = settings.model_copy(update={"append_timeout_s": 0.5})
    async with Producer.connect(hasty) as producer:
        await producer.append("Order-1", [Noted(text="0")], expected_version=NO_STREAM)
        async with connection.transaction():
            await producer.append("Order-1", [Noted(text="1")], expected_version=1, connection=connection)
            with pytest.raises(AppendTimeoutError) as late:
                await producer.append("Order-1", [Noted(text="2")], expected_version=ANY)
        events = [event for event in late.value.events if isinstance(event, NewEvent)]
        done = await producer.append("Order-1", events, expected_version=ANY)
        again = await producer.append("Order-1", events, expected_version=ANY)
        assert (done.version, again.version, again.known) == (3, 3, True)
    assert await reader.version("Order-1") == 3


async def test_a_load_waits_for_a_transaction_that_holds_its_stream(
    producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """As an append does, and the streams that it does not wait for stay free for others."""
    transaction = connection.transaction()
    await transaction.start()
    await producer.append("Order-2", [Noted(text="x")], expected_version=NO_STREAM, connection=connection)
    load = asyncio.create_task(
        producer.load([HistoricEvent(f"Order-{number}", 1, Noted(text="x")) for number in (1, 2)])
    )
    for number in range(20):
        await producer.append(f"Note-{number}", [Noted(text="x")], expected_version=NO_STREAM)
        await asyncio.wait([load], timeout=0.02)
    assert not load.done()
    await transaction.rollback()
    assert await load == Loaded(new=2, known=0)
    assert await reader.version("Order-1") == 1


async def test_a_load_gives_up_with_an_error_of_its_own(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    hasty = settings.model_copy(update={"append_timeout_s": 0.5})
    async with Producer.connect(hasty) as producer, connection.transaction():
        await producer.append("Order-2", [Noted(text="x")], expected_version=NO_STREAM, connection=connection)
        with pytest.raises(WaitTimeoutError) as late:
            await producer.load([HistoricEvent("Order-2", 1, Noted(text="x"))])
        assert late.value.retryable
    assert await reader.version("Order-2") == 1


async def test_the_relay_is_woken_after_the_commit(
    settings: Settings, producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """It polls so rarely here that only a notification can be the reason."""
    drowsy = settings.model_copy(update={"poll_interval_s": 600.0})
    async with running(Relay(drowsy), Indexer(drowsy)):
        first = await producer.append("Order-1", [Noted(text="up")], expected_version=ANY)
        await reader.indexed(first.event_ids)
        async with connection.transaction():
            done = await producer.append("Order-1", [Noted(text="x")], expected_version=ANY, connection=connection)
        assert await reader.indexed(done.event_ids, timeout=20) == [2]


async def test_a_connection_that_dies_in_its_transaction_is_not_watched_for_ever(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The doorbell waits for the end of a transaction; a dead connection never says that it has ended."""
    own = await asyncpg.connect(settings.dsn)
    await own.execute("BEGIN")
    await producer.append("Order-1", [Noted(text="x")], expected_version=ANY, connection=own)
    watching = [task for task in asyncio.all_tasks() if "Doorbell._watch" in repr(task.get_coro())]
    assert watching
    await connection.execute("SELECT pg_terminate_backend($1)", own.get_server_pid())
    async with asyncio.timeout(20):
        await asyncio.gather(*watching)
