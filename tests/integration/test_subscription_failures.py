"""Handlers that fail: retries that hold up one stream only, parked events, what follows them, replay and drop."""

import asyncio
from collections import defaultdict
from contextlib import suppress

import pytest
from support.models import Noted
from support.parking import ask_again, parked
from support.subscribing import append, consuming, holds
from support.waiting import until

from gatelog.core import asking, kafka, postgres
from gatelog.core.consumer_errors import ParkedFullError
from gatelog.core.errors import KafkaUnavailableError
from gatelog.core.identity import Identified
from gatelog.core.partitioning import partition_of
from gatelog.producer import Producer
from gatelog.reader import Failures, Park, Retry, Skip, Stop, Subscription
from gatelog.reader.subscriptions.parked import ParkedEvent, ParkedState, parked_topic_of
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.parker import Parker
from gatelog.schemas import RecordedEvent

pytestmark = [pytest.mark.classic, pytest.mark.usefixtures("relay")]

QUICK = Failures(attempts_max=3, first_delay_s=0.01, delay_max_s=0.02)


class Handled:
    """What a subscription's handler was called with, and when it must fail."""

    def __init__(self, subscription: Subscription) -> None:
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.attempts: dict[str, int] = defaultdict(int)
        self.poison: set[str] = set()

        @subscription.on(Noted)
        async def note(event: RecordedEvent[Noted]) -> None:
            text = event.data.text
            self.attempts[text] += 1
            if text in self.poison:
                raise ValueError(f"cannot bear {text}")
            self.texts[event.stream].append(text)

    @property
    def count(self) -> int:
        return sum(map(len, self.texts.values()))


async def test_a_retry_holds_up_its_own_stream_only(settings: Identified, producer: Producer) -> None:
    """The failing event waits for what comes after it in another stream: were that held up too, it would not end."""
    await append(producer, "Note-bad", "first", "second")
    await append(producer, "Note-good", *map(str, range(20)))
    subscription = Subscription("s", concurrency=1, failures=Failures(first_delay_s=0.01, delay_max_s=0.05))
    order: list[str] = []
    good = 0

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        nonlocal good
        good += event.stream == "Note-good"
        if event.data.text == "first" and good < 20:
            raise Retry("not yet", after_s=0.01)
        order.append(event.data.text)

    async with consuming(subscription, settings):
        await holds(lambda: len(order) == 22, "all are handled")
    assert order == [*map(str, range(20)), "first", "second"]


async def test_a_poison_event_is_parked_and_its_stream_held_until_it_is_replayed(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-bad", "a", "poison", "b")
    await append(producer, "Note-good", "x", "y")
    subscription = Subscription("s", failures=QUICK)
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with consuming(subscription, settings):
        await holds(lambda: handled.count == 3, "the good ones are handled")

        async def are_parked() -> list[ParkedEvent]:
            found: list[ParkedEvent] = []
            while len(found) < 2:
                found = await asyncio.to_thread(parked, settings, "s")
            return found

        async with asyncio.timeout(30):
            poison, later = await are_parked()
        assert (poison.stream, poison.version, poison.attempts) == ("Note-bad", 2, 3)
        assert poison.reason == "ValueError: cannot bear poison"
        assert "cannot bear poison" in poison.trace
        assert "Traceback" in poison.trace
        assert dict(poison.headers)["ce_subject"] == b"Note-bad"
        assert poison.value.endswith(b"poison")
        assert (later.version, later.attempts, later.state) == (3, 0, ParkedState.PARKED)
        assert handled.attempts["poison"] == 3
        assert handled.attempts["b"] == 0, "it waits for the one before it"
        handled.poison.clear()
        await append(producer, "Note-bad", "c")
        await asyncio.to_thread(ask_again, settings, "s")
        await holds(lambda: handled.count == 6, "what was parked is handled, and what came after it")
    assert handled.texts["Note-bad"] == ["a", "poison", "b", "c"], "in the order of the stream"
    assert await asyncio.to_thread(parked, settings, "s") == []


async def test_what_only_followed_is_handled_when_the_one_before_it_is_dropped(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "poison", "b", "c")
    subscription = Subscription("s", failures=Failures(attempts_max=1))
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with consuming(subscription, settings):

        async def are_parked() -> bool:
            return len(await asyncio.to_thread(parked, settings, "s")) == 3

        await until(are_parked, "the poison and its followers are parked")
        poison = (await asyncio.to_thread(parked, settings, "s"))[0]
        with ParkedTopic(settings, "s") as topic:
            await asyncio.to_thread(topic.write, [(poison.event_id, None)])
        await holds(lambda: handled.count == 2, "the followers are handled")
    assert handled.texts["Note-1"] == ["b", "c"]
    assert handled.attempts["poison"] == 1
    assert await asyncio.to_thread(parked, settings, "s") == []


async def test_a_stream_goes_on_without_its_parked_event_if_that_is_wanted(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "a", "poison", "b")
    subscription = Subscription("s", failures=Failures(attempts_max=1, hold_stream=False))
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with consuming(subscription, settings):
        await holds(lambda: handled.count == 2, "the others are handled")
    assert handled.texts["Note-1"] == ["a", "b"]
    (event,) = await asyncio.to_thread(parked, settings, "s")
    assert event.version == 2


async def test_what_is_parked_or_dropped_is_not_handled_when_it_comes_again(
    settings: Identified, producer: Producer
) -> None:
    """It was parked, and what stands before it in its partition was not done: nothing of it could be committed."""
    slow, *others = [name for name in (f"Note-{n}" for n in range(99)) if partition_of(name, 3) == 0][:4]
    for stream, text in zip((slow, *others), ("slow", "poison", "dropped", "c"), strict=True):
        await append(producer, stream, text)
    subscription = Subscription("s", failures=Failures(attempts_max=1, hold_stream=False), stop_timeout_s=0.0)
    attempts: dict[str, int] = defaultdict(int)
    may_end = asyncio.Event()

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        attempts[event.data.text] += 1
        if event.data.text == "slow":
            await may_end.wait()
        if event.data.text in {"poison", "dropped"}:
            raise ValueError("cannot bear it")

    async with consuming(subscription, settings):
        await until(lambda: asyncio.to_thread(lambda: len(parked(settings, "s")) == 2), "both are parked")
        await holds(lambda: attempts["c"] == 1, "the good one is handled")
    _poison, dropped = await asyncio.to_thread(parked, settings, "s")
    with ParkedTopic(settings, "s") as topic:
        await asyncio.to_thread(topic.write, [(dropped.event_id, None)])
    may_end.set()
    async with consuming(subscription, settings):
        await holds(lambda: attempts["c"] == 2, "what was handled comes again: at least once")
    assert attempts == {"slow": 2, "poison": 1, "dropped": 1, "c": 2}
    assert [event.position for event in await asyncio.to_thread(parked, settings, "s")] == [2]


async def test_a_handler_asks_to_skip_park_or_stop_and_may_return_or_raise_it(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "skip", "park", "stop", "after")
    subscription = Subscription("s", failures=Failures(hold_stream=False))
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> object:
        seen.append(event.data.text)
        if event.data.text == "skip":
            return Skip("not for us")
        if event.data.text == "park":
            raise Park("a human must look")
        if event.data.text == "stop":
            return Stop("enough", handled=False)
        return None

    async with asyncio.timeout(60):
        await subscription.run(asyncio.Event(), settings)
        assert seen == ["skip", "park", "stop"]
        (event,) = await asyncio.to_thread(parked, settings, "s")
        assert (event.reason, event.attempts) == ("a human must look", 1)
        await subscription.run(asyncio.Event(), settings)
    assert seen == ["skip", "park", "stop", "stop"], "it was not handled, so it comes again, and only it"


async def test_a_handler_that_hangs_is_given_up(settings: Identified, producer: Producer) -> None:
    await append(producer, "Note-1", "hangs", "b")
    subscription = Subscription("s", handler_timeout_s=0.1, failures=Failures(attempts_max=2, first_delay_s=0.01))
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        seen.append(event.data.text)
        if seen.count("hangs") < 2:
            await asyncio.Event().wait()

    async with consuming(subscription, settings):
        await holds(lambda: len(seen) == 3, "it is tried again, and then the next")
    assert seen == ["hangs", "hangs", "b"]


async def test_a_bound_on_what_is_parked_stops_the_subscription(settings: Identified, producer: Producer) -> None:
    for number in range(3):
        await append(producer, f"Note-{number}", "poison")
    subscription = Subscription("s", failures=Failures(attempts_max=1), parked_events_max=2, concurrency=1)
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with asyncio.timeout(60):
        with pytest.raises(ParkedFullError, match="2 events are parked"):
            await subscription.run(asyncio.Event(), settings)
    assert len(await asyncio.to_thread(parked, settings, "s")) == 2


async def test_what_follows_a_replay_that_fails_again_stays_held(settings: Identified, producer: Producer) -> None:
    await append(producer, "Note-1", "poison", "b", "c")
    subscription = Subscription("s", failures=Failures(attempts_max=1))
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with consuming(subscription, settings):

        async def are_parked() -> bool:
            return len(await asyncio.to_thread(parked, settings, "s")) == 3

        await until(are_parked, "the poison and its followers are parked")
        await asyncio.to_thread(ask_again, settings, "s")

        async def has_failed_again() -> bool:
            poison = (await asyncio.to_thread(parked, settings, "s"))[0]
            return (poison.state, poison.attempts) == (ParkedState.PARKED, 2)

        await until(has_failed_again, "the replay has failed")
        await append(producer, "Note-2", "x")
        await holds(lambda: handled.count > 0, "other streams go on")
        assert handled.texts == {"Note-2": ["x"]}, "what stands behind the poison is held still"
        handled.poison.clear()
        await asyncio.to_thread(ask_again, settings, "s")
        await holds(lambda: handled.count == 4, "all are handled")
    assert handled.texts["Note-1"] == ["poison", "b", "c"]


async def test_what_is_asked_for_once_more_keeps_its_place(settings: Identified, producer: Producer) -> None:
    """A newer word on the second event of a stream, while the first is replayed: the third does not overtake."""
    subscription, gate, entered = Subscription("s", failures=QUICK), asyncio.Event(), asyncio.Event()
    poison, texts = {"first", "other"}, list[str]()

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        text = event.data.text
        if text in poison:
            raise ValueError(text)
        if text == "first":
            entered.set()
            await gate.wait()
        texts.append(text)

    def ask(wanted: str) -> None:
        with ParkedTopic(settings, "s") as topic:
            (found,) = [each for each in topic.all() if each.stream + str(each.version) == wanted]
            topic.write([(found.event_id, found.asked_again())])

    async with consuming(subscription, settings):
        await append(producer, "Note-bad", "first", "second", "third")
        await append(producer, "Note-other", "other")

        async def are_parked() -> bool:
            return len(await asyncio.to_thread(parked, settings, "s")) == 4

        await until(are_parked, "all are parked")
        poison.clear()
        await asyncio.to_thread(ask, "Note-bad1")
        await asyncio.wait_for(entered.wait(), 60)
        await asyncio.to_thread(ask, "Note-bad2")
        await asyncio.to_thread(ask, "Note-other1")
        await holds(lambda: "other" in texts, "the newer words have been read")
        gate.set()
        await holds(lambda: len(texts) == 4, "all are handled")
    assert texts == ["other", "first", "second", "third"]


async def test_words_that_were_read_before_kafka_fell_silent_are_told_the_next_time(
    settings: Identified, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers that start tell of ends that they do not deliver yet."""

    def read() -> None:
        with ParkedTopic(settings, "s") as topic:
            topic.write([("a", None)])
            assert [word[0] for word in topic.news()] == ["a"]
            topic.write([("b", None), ("c", None)])
            with monkeypatch.context() as silent:
                silent.setattr(kafka, "REQUEST_TIMEOUT_S", 0.0)
                silent.setattr(asking, "ends", lambda _, places, **__: dict.fromkeys(places, 10))
                with pytest.raises(KafkaUnavailableError):
                    topic.news()
            assert [word[0] for word in topic.news()] == ["b", "c"]

    await asyncio.to_thread(read)


async def test_who_is_cancelled_while_it_reads_what_is_parked_loses_nothing_of_it(
    settings: Identified, producer: Producer
) -> None:
    """What was read is read only once; and its thread has the consumer, until it is through."""
    subscription = Subscription("s", failures=Failures(attempts_max=1, hold_stream=False))

    @subscription.on(Noted)
    async def refuse(_event: RecordedEvent[Noted]) -> Park:
        return Park("no")

    for number in range(20):
        await append(producer, f"Note-{number}", "a")
    async with consuming(subscription, settings):
        await holds(lambda: len(parked(settings, "s")) == 20, "all are parked")
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        parker = Parker(settings, pool, "s", 100)
        for _ in range(20):
            reading = asyncio.create_task(parker.refresh())
            await asyncio.sleep(0.001)  # into its thread, or not yet
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await parker.refresh()
        assert len(parker.view) == 20
        await parker.close()


async def test_the_time_that_parking_takes_is_not_the_handlers(settings: Identified, producer: Producer) -> None:
    """A task that was cancelled while it parked left its stream where it was, for as long as it had the partition."""
    for number in range(200):
        await append(producer, f"Note-{number}", "poison", "b")
    failures = Failures(attempts_max=1, hold_stream=False)
    subscription = Subscription("s", handler_timeout_s=0.001, failures=failures)
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with consuming(subscription, settings):
        await holds(lambda: handled.count == 200, "every stream goes on behind its parked event")


async def test_a_handler_may_answer_a_cancellation_as_it_likes_and_may_cancel_itself(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "swallows", "hangs", "cancels", "leaves one behind", "b")
    failures = Failures(attempts_max=1, hold_stream=False)
    subscription = Subscription("s", concurrency=1, handler_timeout_s=0.2, failures=failures)
    seen: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        seen.append(event.data.text)
        task = asyncio.current_task()
        assert task is not None
        match event.data.text:
            case "swallows":
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            case "hangs":
                await asyncio.Event().wait()
            case "cancels":
                task.cancel()
                await asyncio.sleep(0)
            case "leaves one behind":
                task.cancel()

    async with consuming(subscription, settings):
        await holds(lambda: seen[-1:] == ["b"], "all come to their turn")
        await until(lambda: asyncio.to_thread(lambda: len(parked(settings, "s")) == 3), "three are parked")
    assert seen == ["swallows", "hangs", "cancels", "leaves one behind", "b"]
    found = {event.version: event.reason for event in await asyncio.to_thread(parked, settings, "s")}
    assert found[1].startswith("HandlerTimeoutError")
    assert found[2].startswith("HandlerTimeoutError"), "of each, not of the first one only"
    assert found[3] == "RuntimeError: the handler was cancelled from inside"


async def test_mistakes_with_outcomes_are_failures_of_the_handler(settings: Identified, producer: Producer) -> None:
    await append(producer, "Note-1", "class", "no text", "negative", "mute", "b")
    subscription = Subscription("s", failures=Failures(attempts_max=1, hold_stream=False))
    seen: list[str] = []

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

        __repr__ = __str__

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> object:
        match event.data.text:
            case "class":
                return Park
            case "no text":
                return Park(7)  # type: ignore[arg-type] # the mistake
            case "negative":
                return Retry(after_s=-1)
            case "mute":
                raise MuteError
        seen.append(event.data.text)
        return None

    async with consuming(subscription, settings):
        await holds(lambda: bool(seen), "the subscription goes on")
    assert [event.reason for event in await asyncio.to_thread(parked, settings, "s")] == [
        "TypeError: the handler returned the class Park; call it: Park(…)",
        "7",
        "InvalidInputError: Retry: after_s is -1; it must be a number of seconds from 0 on.",
        "MuteError",
    ]


async def test_a_parked_topic_that_is_deleted_is_made_again_and_followed(
    settings: Identified, producer: Producer
) -> None:
    """What was parked is gone with it, and holds nothing any more; offsets begin anew."""
    await append(producer, "Note-1", "poison", "b")
    subscription = Subscription("s", failures=Failures(attempts_max=1))
    handled = Handled(subscription)
    handled.poison = {"poison"}
    async with consuming(subscription, settings):
        await until(lambda: asyncio.to_thread(lambda: len(parked(settings, "s")) == 2), "both are parked")
        await asyncio.to_thread(delete_parked_topic, settings)
        await append(producer, "Note-2", "poison")

        async def is_parked() -> bool:
            return [event.stream for event in await asyncio.to_thread(parked, settings, "s")] == ["Note-2"]

        await until(is_parked, "the topic was made again", timeout=120)
        handled.poison.clear()
        await asyncio.to_thread(ask_again, settings, "s")
        await holds(lambda: handled.count == 1, "the replay is seen, and so the new topic")
        await append(producer, "Note-1", "c")
        await holds(lambda: handled.count == 2, "the other stream is not held")
    assert handled.texts == {"Note-2": ["poison"], "Note-1": ["c"]}


def delete_parked_topic(settings: Identified) -> None:
    name = parked_topic_of(settings, "s")
    admin = kafka.admin(settings.kafka_properties)
    admin.delete_topics([name])[name].result(30)
