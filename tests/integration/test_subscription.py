"""Subscriptions: handlers by type, where a group goes on, and what a handler's own appends carry."""

import asyncio
from uuid import uuid4

import pytest
from support.models import Noted
from support.running import running

from gatelog.core.errors import InvalidInputError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Failures, Reader, Subscription
from gatelog.schemas import Event, NewEvent, RecordedEvent

pytestmark = pytest.mark.classic

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Paid(Event):
    amount: int


async def handle(subscription: Subscription, settings: Settings, until_set: asyncio.Event) -> None:
    """Run a subscription until the handler has said that it has seen enough."""
    async with asyncio.timeout(60):
        await subscription.run(until_set, settings)


async def test_handlers_get_their_types_in_order_and_a_group_goes_on(settings: Settings, producer: Producer) -> None:
    for number in range(10):
        await producer.append(f"Note-{number % 2}", [Noted(text=str(number))], expected_version=ANY)
        await producer.append(f"Order-{number % 2}", [Paid(amount=number)], expected_version=ANY)
    seen: dict[str, list[str]] = {"Note-0": [], "Note-1": []}

    async def once(upto: int) -> None:
        stop = asyncio.Event()
        subscription = Subscription("letters", categories=["Note"])

        @subscription.on(Noted)
        async def note(event: RecordedEvent) -> None:
            assert isinstance(event.data, Noted)
            seen[event.stream].append(event.data.text)
            if sum(map(len, seen.values())) == upto:
                stop.set()

        @subscription.on(Paid)
        async def paid(event: RecordedEvent) -> None:
            raise AssertionError("another category")

        await handle(subscription, settings, stop)

    async with running(Relay(settings)):
        await once(10)
        for number in (10, 11):
            await producer.append(f"Note-{number % 2}", [Noted(text=str(number))], expected_version=ANY)
        await once(12)
    assert seen == {"Note-0": ["0", "2", "4", "6", "8", "10"], "Note-1": ["1", "3", "5", "7", "9", "11"]}


async def test_what_a_handler_appends_is_caused_by_what_it_handles(
    settings: Settings, producer: Producer, reader: Reader
) -> None:
    correlation = uuid4()
    told = NewEvent(Noted(text="told"), correlation_id=correlation, traceparent=TRACE)
    await producer.append("Note-told", [told], expected_version=0)
    await producer.append("Note-plain", [Noted(text="plain")], expected_version=0)
    stop = asyncio.Event()
    subscription = Subscription("billing", categories=["Note"])
    own = uuid4()

    @subscription.on(Noted)
    async def bill(event: RecordedEvent) -> None:
        async def deeper() -> None:
            await producer.append(f"Bill-{event.stream}", [Paid(amount=1)], expected_version=0)

        await asyncio.create_task(deeper())
        explicit = NewEvent(Paid(amount=2), causation_id=own)
        await producer.append(f"Bill-{event.stream}", [explicit], expected_version=1)
        handled.append(event)
        if len(handled) == 2:
            stop.set()

    handled: list[RecordedEvent] = []
    async with running(Relay(settings)):
        await handle(subscription, settings, stop)
    for event in handled:
        caused, explicit = [each async for each in reader.stream(f"Bill-{event.stream}")]
        assert caused.causation_id == event.id
        assert caused.correlation_id == (correlation if event.stream == "Note-told" else event.id)
        assert caused.traceparent == (TRACE if event.stream == "Note-told" else None)
        assert explicit.causation_id == own
    outside = await producer.append("Bill-outside", [Paid(amount=3)], expected_version=0)
    (event,) = [each async for each in reader.stream("Bill-outside")]
    assert (event.id, event.causation_id, event.correlation_id) == (outside.event_ids[0], None, None)


async def test_a_handler_that_raises_stops_the_subscription_and_sees_the_event_again(
    settings: Settings, producer: Producer
) -> None:
    await producer.append("Note-1", [Noted(text="poison")], expected_version=0)
    attempts = 0
    stop = asyncio.Event()
    subscription = Subscription("fragile", failures=Failures(attempts_max=1, then="stop"))

    @subscription.on(Noted)
    async def fail(_event: RecordedEvent) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ZeroDivisionError
        stop.set()

    async with running(Relay(settings)):
        with pytest.raises(ZeroDivisionError):
            await handle(subscription, settings, stop)
        await handle(subscription, settings, stop)
    assert attempts == 2


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        Subscription("")
    with pytest.raises(InvalidInputError, match="must be an async function"):
        Subscription("x").on("Noted")(lambda _event: None)  # type: ignore[type-var] # this is the point
