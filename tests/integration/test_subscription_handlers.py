"""Handlers that do odd things: with the cancellation that ends them, with what they return, raise and say."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from support.models import Noted
from support.parking import parked
from support.subscribing import append, consuming, holds
from support.waiting import until

from gatelog.core import postgres
from gatelog.core.identity import Identified
from gatelog.producer import Producer
from gatelog.reader import Failures, Park, Skip, Stop, Subscription
from gatelog.reader.subscriptions.engine import Engine
from gatelog.reader.subscriptions.events import KafkaEvent, kafka_record
from gatelog.reader.subscriptions.group_reading import Begin
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.parker import Parker
from gatelog.reader.subscriptions.places import Batch
from gatelog.reader.subscriptions.work import Plan
from gatelog.schemas import RecordedEvent
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Record
from gatelog.schemas.registries import registry_of

pytestmark = [pytest.mark.classic, pytest.mark.usefixtures("relay")]

ONCE = Failures(attempts_max=1, hold_stream=False)


async def ran(subscription: Subscription, settings: Identified) -> None:
    """Run it until it ends by itself."""
    async with asyncio.timeout(60):
        await subscription.run(asyncio.Event(), settings)


async def cancelled() -> None:
    """Wait until somebody cancels this, and swallow it."""
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def cancelled_with_children() -> None:
    """As ``cancelled``, of a group whose children are cancelled with it."""
    with suppress(asyncio.CancelledError):
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
            group.create_task(cancelled())


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("ends", [cancelled, cancelled_with_children])
@pytest.mark.parametrize("answer", [None, Stop("enough"), Skip("late"), Park("late"), ValueError("late")], ids=repr)
async def test_what_was_cancelled_by_the_stop_is_not_handled(
    settings: Identified, producer: Producer, protocol: str, ends: Callable[[], Awaitable[None]], answer: object
) -> None:
    settings = settings.model_copy(update={"subscription_protocol": protocol})
    await append(producer, "Note-1", "first", "second")
    subscription = Subscription("s", failures=ONCE, stop_timeout_s=0.1)
    seen: list[str] = []
    is_first = True

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> object:
        seen.append(event.data.text)
        if is_first:
            await ends()
            return answer
        return None

    async with consuming(subscription, settings):
        await holds(lambda: seen == ["first"], "it is called")
    assert seen == ["first"]
    is_first = False
    async with consuming(subscription, settings):
        await holds(lambda: len(seen) == 3, "it comes again")
    assert seen == ["first", "first", "second"]
    assert await asyncio.to_thread(parked, settings) == []


async def test_what_was_cancelled_by_a_rebalance_is_not_handled(settings: Identified, producer: Producer) -> None:
    """A second member comes, and the handler does not end before the partition must go: each is handled once."""
    for number in range(30):
        await append(producer, f"Note-{number}", "text")
    handled: list[str] = []
    called = 0

    def member(*, is_slow: bool) -> Subscription:
        subscription = Subscription("s", failures=ONCE, concurrency=30, revoke_timeout_s=2.1, stop_timeout_s=0.1)

        @subscription.on(Noted)
        async def note(event: RecordedEvent[Noted]) -> None:
            nonlocal called
            called += 1
            if is_slow:
                await cancelled()
            else:
                handled.append(event.stream)

        return subscription

    async with consuming(member(is_slow=True), settings):
        await holds(lambda: called == 30, "all are called")
        async with consuming(member(is_slow=False), settings):
            await holds(lambda: len(handled) > 0, "some partitions have gone over")
    async with consuming(member(is_slow=False), settings):
        await holds(lambda: len(handled) >= 30, "all are handled")
    assert sorted(handled) == sorted(f"Note-{number}" for number in range(30))


async def test_a_handler_that_swallowed_its_timeout_is_cancelled_by_the_stop_again(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "text")
    subscription = Subscription("s", failures=ONCE, handler_timeout_s=0.05, stop_timeout_s=0.1)
    times = 0

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        nonlocal times
        for _ in range(2):
            await cancelled()
            times += 1

    async with consuming(subscription, settings):
        await holds(lambda: times == 1, "its time was over")
    assert times == 2


async def test_a_handler_that_never_ends_does_not_hold_the_subscription(
    settings: Identified, producer: Producer
) -> None:
    """Neither the deadline of a stop nor that of a rebalance is waited for once more."""
    await append(producer, "Note-1", "text")
    subscription = Subscription("s", failures=ONCE, stop_timeout_s=0.1, revoke_timeout_s=600)
    called, may_end = asyncio.Event(), asyncio.Event()

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        called.set()
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    async with consuming(subscription, settings):
        await called.wait()
    again: list[str] = []
    other = Subscription("s")

    @other.on(Noted)
    async def keep(event: RecordedEvent[Noted]) -> None:
        again.append(event.data.text)

    async with consuming(other, settings):
        await holds(lambda: again == ["text"], "another has it")
    may_end.set()


class SaysNothing(Exception):  # noqa: N818 - odd on purpose
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # noqa: PLE0307 - odd on purpose


class OddBase(BaseException):
    """Neither an error nor anything that asyncio knows."""


def odd_syntax() -> Exception:
    """A trace cannot be made of it."""
    return SyntaxError("odd", ("file", 1, 1, 5))  # type: ignore[arg-type] # odd on purpose


async def forgotten() -> None:
    """Work that nobody awaits."""


async def generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (SaysNothing, "SaysNothing"),
        (odd_syntax, "SyntaxError: odd (file, line 1)"),
        (lambda: StopIteration("x"), "RuntimeError: coroutine raised StopIteration; caused by StopIteration: x"),
        (lambda: StopAsyncIteration("x"), "StopAsyncIteration: x"),
        (
            lambda: ExceptionGroup("many", [ValueError("a")]),
            "ExceptionGroup: many (1 sub-exception); caused by ValueError: a",
        ),
        (asyncio.CancelledError, "RuntimeError: the handler was cancelled from inside"),
    ],
    ids=["str", "trace", "stop", "async stop", "group", "cancelled"],
)
async def test_what_is_raised_is_a_failure(
    settings: Identified, producer: Producer, make: Callable[[], BaseException], reason: str
) -> None:
    await append(producer, "Note-1", "odd", "next")
    subscription = Subscription("s", failures=ONCE)
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        if event.data.text == "odd":
            raise make()
        seen.append(event.data.text)

    async with consuming(subscription, settings):
        await holds(lambda: seen == ["next"], "the stream goes on")
    assert [event.reason for event in await asyncio.to_thread(parked, settings)] == [reason]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: asyncio.CancelledError("x"), "TypeError: the handler returned a CancelledError; raise it"),
        (forgotten, "TypeError: the handler returned a coroutine; await what it does"),
        (generator, "TypeError: the handler returned a async_generator; await what it does"),
        (lambda: asyncio.ensure_future(forgotten()), "TypeError: the handler returned a Task; await what it does"),
    ],
    ids=["cancelled", "coroutine", "generator", "task"],
)
async def test_what_is_returned_and_was_not_done_is_a_failure(
    settings: Identified, producer: Producer, make: Callable[[], object], reason: str
) -> None:
    await append(producer, "Note-1", "odd", "next")
    subscription = Subscription("s", failures=ONCE)
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> object:
        if event.data.text == "odd":
            return make()
        seen.append(event.data.text)
        return object()

    async with consuming(subscription, settings):
        await holds(lambda: seen == ["next"], "the stream goes on")
    assert [event.reason for event in await asyncio.to_thread(parked, settings)] == [reason]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OddBase("odd")], ids=repr)
async def test_what_is_to_end_the_program_ends_the_subscription_and_the_event_comes_again(
    settings: Identified, producer: Producer, error: BaseException
) -> None:
    await append(producer, "Note-1", "odd", "next")
    subscription = Subscription("s", failures=ONCE)
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        seen.append(event.data.text)
        if len(seen) == 1:
            raise error

    with pytest.raises(type(error)) as raised:
        await ran(subscription, settings)
    assert raised.value is error
    async with consuming(subscription, settings):
        await holds(lambda: len(seen) == 3, "it comes again")
    assert seen == ["odd", "odd", "next"]


async def test_a_replay_of_what_cannot_be_read_is_parked_again(settings: Identified, producer: Producer) -> None:
    """A header is found to be broken when it is looked at: by the handler at first, by everybody in a replay."""
    await append(producer, "Note-1", "text")
    subscription = Subscription("s", failures=ONCE)
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        if event.stream == "Note-1":
            raise ValueError("cannot bear it")
        seen.append(event.data.text)

    def break_it() -> None:
        with ParkedTopic(settings, "s") as topic:
            (event,) = topic.all()
            headers = tuple((k, b"never" if k == "ce_time" else v) for k, v in event.headers)
            topic.write([(event.event_id, replace(event, headers=headers).asked_again())])

    async def has_failed_again() -> bool:
        (event,) = await asyncio.to_thread(parked, settings)
        return event.attempts == 2

    async with consuming(subscription, settings):
        await until(lambda: asyncio.to_thread(lambda: len(parked(settings)) == 1), "it is parked")
        await asyncio.to_thread(break_it)
        await until(has_failed_again, "the replay has failed")
        await append(producer, "Note-2", "text")
        await holds(lambda: seen == ["text"], "the subscription goes on")
    (event,) = await asyncio.to_thread(parked, settings)
    assert event.reason.startswith("UndecodableRecordError")


async def test_an_event_that_rests_when_its_partition_is_lost_is_not_taken_twice(settings: Identified) -> None:
    """The partition comes back at once, with the same events; the timer of the first time adds none to them."""
    place, handled, running, most = ("Note", 0), list[int](), 0, 0

    async def slow(event: RecordedEvent) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        try:
            if not handled and not engine.counts.failed:
                raise ValueError("not yet")
            await asyncio.sleep(0.2)  # longer than the rest: the timer of the first time comes due meanwhile
            handled.append(event.version)
        finally:
            running -= 1

    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        codec, parker = Codec(registry_of(settings, pool), register=False), Parker(settings, pool, "s", 100)
        failures = Failures(first_delay_s=0.1, delay_max_s=0.1)
        engine = Engine(Plan("s", settings.source, {}, slow, failures, "stream", 4, None, 1.0, 1.0), codec, parker)
        events = [event_at(settings.source, version, codec) for version in (1, 2)]
        for number in (1, 2):
            await engine.assigned({place: Begin(0, 0, None)})
            engine._accept(Batch(place, number, events, [0, 1], 2, 100))
            engine._wake()
            if number == 1:
                await holds(lambda: engine.counts.failed == 1, "the first event rests")
                await engine.lost([place])
        await holds(lambda: len(handled) >= 2, "both are handled")
        await engine._finish()
        await parker.close()
    assert (handled, most) == ([1, 2], 1)


def event_at(source: str, version: int, codec: Codec) -> KafkaEvent:
    """Return a note as it is read from Kafka."""
    record = Record("Note-1", version, version, uuid4(), "Noted", datetime.now(UTC), None, None, None, None, 1, b"")
    headers, value = kafka_record(source, record)
    return KafkaEvent("Note-1", version, version, "Noted", 1, headers, value, source, codec)
