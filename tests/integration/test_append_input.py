"""What the door refuses: one clear error, nothing half-done, and the neighbours in the batch never notice."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.errors import (
    BacklogFullError,
    GatelogError,
    InvalidEventError,
    InvalidInputError,
    PostgresRefusedError,
    SchemaError,
)
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import Event, NewEvent


class Odd(Event):
    number: int


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[Producer]:
    """A producer with small bounds."""
    bounds = {"event_bytes_max": 100, "append_events_max": 3}
    async with Producer.connect(settings.model_copy(update=bounds)) as producer:
        yield producer


BAD: dict[str, tuple[Event | NewEvent, type[GatelogError], str]] = {
    "too large": (Noted(text="x" * 200), InvalidEventError, "it has 202 bytes; 100 are allowed"),
    "no such number": (Odd(number=2**70), InvalidEventError, "does not fit its schema"),
    "no such text": (Noted.model_construct(text="\ud800"), InvalidEventError, "does not fit its schema"),
    "metadata is no JSON": (NewEvent(Noted(text=""), metadata={"a": object()}), InvalidEventError, "not JSON"),
    "NaN in metadata": (NewEvent(Noted(text=""), metadata={"a": [{"b": float("nan")}]}), InvalidEventError, "NaN"),
    "NUL in metadata": (NewEvent(Noted(text=""), metadata={"a": "\0"}), InvalidEventError, "NUL"),
    "bad trace": (NewEvent(Noted(text=""), traceparent="00-\n"), InvalidEventError, "W3C trace context"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_event_is_refused_and_its_neighbours_are_stored(
    narrow: Producer, reader: Reader, what: str
) -> None:
    bad, error, says = BAD[what]
    good = [narrow.append(f"Note-{n}", [Noted(text="x")], expected_version=0) for n in range(30)]
    answers = await asyncio.gather(
        *good[:15],
        narrow.append("Note-bad", [Noted(text="fine"), bad], expected_version=ANY),
        *good[15:],
        return_exceptions=True,
    )
    refused = answers.pop(15)
    assert isinstance(refused, error)
    assert says in str(refused)
    assert "Note-bad" in str(refused)
    assert not any(isinstance(answer, BaseException) for answer in answers)
    assert await reader.version("Note-bad") == 0


async def test_what_postgres_refuses_in_a_batch_fails_one_append_only(
    narrow: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings
) -> None:
    """A refusal that no check at the door knows of: the batch is taken apart."""
    await connection.execute(f"ALTER TABLE {settings.store}.outbox ADD CHECK (correlation_id <> event_id)")
    poison = NewEvent(Noted(text="x"))
    poison = NewEvent(Noted(text="x"), id=poison.id, correlation_id=poison.id)
    answers = await asyncio.gather(
        *(narrow.append(f"Note-{n}", [Noted(text="x")], expected_version=0) for n in range(30)),
        narrow.append("Note-bad", [poison], expected_version=ANY),
        return_exceptions=True,
    )
    assert isinstance(answers.pop(), PostgresRefusedError)
    assert not any(isinstance(answer, BaseException) for answer in answers)
    assert [await reader.version(f"Note-{n}") for n in range(30)] == [1] * 30


@pytest.mark.parametrize("expected", [-1, -2, 1.0, "any", None, True])
async def test_an_expected_version_is_one_of_four_kinds(narrow: Producer, expected: object) -> None:
    with pytest.raises(InvalidInputError, match="NO_STREAM, STREAM_EXISTS, ANY"):
        await narrow.append("Note-1", [Noted(text="x")], expected_version=expected)  # type: ignore[arg-type] # on purpose


async def test_an_append_has_a_bound(narrow: Producer) -> None:
    with pytest.raises(InvalidInputError, match="has 4 events; 3 are allowed"):
        await narrow.append("Note-1", [Noted(text="x")] * 4, expected_version=ANY)


async def test_an_unregistered_schema_is_refused_where_registering_is_off(settings: Settings) -> None:
    async with Producer.connect(settings.model_copy(update={"register_schemas": False})) as producer:
        with pytest.raises(SchemaError, match="Noted in this program is not registered"):
            await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)


async def test_a_full_outbox_refuses_appends_until_the_relay_has_caught_up(
    settings: Settings, reader: Reader
) -> None:
    bounded = settings.model_copy(update={"outbox_events_max": 10})
    async with Producer.connect(bounded) as producer:
        for number in range(10):
            await producer.append(f"Note-{number % 3}", [Noted(text="x")], expected_version=ANY)
        for events in (1, 5):
            with pytest.raises(BacklogFullError) as full:
                await producer.append("Note-1", [Noted(text="x")] * events, expected_version=ANY)
            assert full.value.retryable
            assert "outbox_events_max" in str(full.value)
        assert await reader.version("Note-0") == 4, "reads go on"

        async def accepted() -> bool:
            try:
                await producer.append("Note-1", [Noted(text="x")] * 5, expected_version=ANY)
            except BacklogFullError:
                return False
            return True

        async with running(Relay(settings), Indexer(settings), OutboxKeeper(settings)):
            await until(accepted, "the outbox has room again")
        assert await reader.version("Note-1") == 8


async def test_errors_tell_whether_to_try_again(narrow: Producer) -> None:
    with pytest.raises(GatelogError) as refused:
        await narrow.append("Note-1", [Noted(text="x")], expected_version=3)
    assert not refused.value.retryable
