"""A group whose offsets were set back handles everything again; what is parked stays so, and no event comes twice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from support.models import Noted
from support.parking import are_parked
from support.subscribing import append, consuming, holds
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.identity import Identified
from gatelog.producer import Producer
from gatelog.reader import Failures, Subscription
from gatelog.reader.subscriptions.parked import ParkedEvent
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.probing import Probe
from gatelog.schemas import RecordedEvent

pytestmark = pytest.mark.usefixtures("relay")


@pytest.fixture(params=["classic", "consumer"])
def settings(settings: Identified, request: pytest.FixtureRequest) -> Identified:
    return settings.model_copy(update={"subscription_protocol": request.param})


async def write(settings: Identified, events: Iterable[ParkedEvent], *, dropped: bool = False) -> None:
    """As ``gatelog parked replay`` and ``drop`` do."""
    with ParkedTopic(settings, "s") as topic:
        words = [(event.event_id, None if dropped else event.asked_again()) for event in events]
        await asyncio.to_thread(topic.write, words)


async def set_back(settings: Identified, offset: int = 0) -> None:
    """What ``kafka-consumer-groups --reset-offsets --to-offset 0 --execute`` does, when its last member has left."""
    group = Subscription("s").group_of(settings)
    admin = kafka.admin(settings.kafka_properties)
    with Probe(settings) as probe:
        places = [TopicPartition(*place, offset) for place in probe.places(None)]

    async def is_done() -> bool:
        asked = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        try:
            answer = await asyncio.to_thread(asked[group].result, 30)
        except KafkaException:
            return False
        return all(each.error is None for each in answer.topic_partitions)

    await until(is_done, "the offsets are set back")


class Handled:
    """A subscription, and what it has handled, in order."""

    def __init__(self, *, hold_stream: bool = True) -> None:
        self.texts: list[str] = []
        self.poison: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.subscription = Subscription("s", failures=Failures(attempts_max=1, hold_stream=hold_stream))

        @self.subscription.on(Noted)
        async def note(event: RecordedEvent[Noted]) -> None:
            await self.gate.wait()
            if event.data.text in self.poison:
                raise ValueError("cannot bear it")
            self.texts.append(event.data.text)

    def has(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.texts) >= count


@asynccontextmanager
async def members(seen: Handled, settings: Identified, count: int) -> AsyncIterator[None]:
    """Run as many members, until the block ends."""
    async with AsyncExitStack() as running:
        for _ in range(count):
            await running.enter_async_context(consuming(seen.subscription, settings))
        yield


@pytest.mark.parametrize("count", [1, 2])
async def test_what_was_replayed_or_dropped_is_handled_again(
    settings: Identified, producer: Producer, count: int
) -> None:
    await append(producer, "Note-1", "a", "poison", "b")
    await append(producer, "Note-2", "dropped", "c")
    seen = Handled()
    seen.poison = {"poison", "dropped"}
    async with members(seen, settings, count):
        found = await are_parked(settings, 4)
        seen.poison.clear()
        await write(settings, [event for event in found if event.stream == "Note-1"])
        await write(settings, [event for event in found if event.position == 4], dropped=True)
        await are_parked(settings, 0)
    assert sorted(seen.texts) == ["a", "b", "c", "poison"]
    await set_back(settings)
    seen.texts.clear()
    async with members(seen, settings, count):
        await holds(seen.has(5), "all come again")
    assert [text for text in seen.texts if text in {"a", "poison", "b"}] == ["a", "poison", "b"]
    assert [text for text in seen.texts if text in {"dropped", "c"}] == ["dropped", "c"]


async def test_it_holds_for_the_member_that_goes_on_too(settings: Identified, producer: Producer) -> None:
    """The offsets were set back, and the first member that read again has ended halfway."""
    await append(producer, "Note-1", "a", "b", "poison", "c")
    seen = Handled()
    seen.poison = {"poison"}
    async with consuming(seen.subscription, settings):
        found = await are_parked(settings, 2)
        seen.poison.clear()
        await write(settings, found)
        await are_parked(settings, 0)
    assert seen.texts == ["a", "b", "poison", "c"]
    await set_back(settings)
    seen.texts.clear()
    stop = asyncio.Event()
    first = Subscription("s", stop_timeout_s=0.0)

    @first.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        if event.data.text == "b":
            stop.set()
            await asyncio.Event().wait()
        seen.texts.append(event.data.text)

    async with asyncio.timeout(60):
        await first.run(stop, settings)
    assert seen.texts == ["a"]
    async with consuming(seen.subscription, settings):
        await holds(seen.has(4), "the rest comes")
    assert seen.texts == ["a", "b", "poison", "c"]


async def test_what_is_parked_stays_parked_and_what_stands_before_it_is_handled(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "a", "poison", "b")
    seen = Handled()
    seen.poison = {"poison"}
    async with consuming(seen.subscription, settings):
        before = await are_parked(settings, 2)
    await set_back(settings)
    await append(producer, "Note-2", "x")
    async with consuming(seen.subscription, settings):
        await holds(seen.has(3), "a again, and x")
    assert sorted(seen.texts) == ["a", "a", "x"]
    with ParkedTopic(settings, "s") as topic:
        words = await asyncio.to_thread(topic.news)
    assert [event for _, _, event in words] == before, "nothing was written: what stands before it is not held by it"


async def test_a_replay_waits_until_what_is_read_again_has_come_to_its_event(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "a", "b", "poison", "c")
    seen = Handled()
    seen.poison = {"poison"}
    async with consuming(seen.subscription, settings):
        found = await are_parked(settings, 2)
    await set_back(settings)
    await write(settings, found)
    seen.poison.clear()
    seen.texts.clear()
    async with consuming(seen.subscription, settings):
        await are_parked(settings, 0)
        await append(producer, "Note-1", "d")
        await holds(seen.has(5), "all are handled")
    assert seen.texts == ["a", "b", "poison", "c", "d"], "once, in the order of the stream"


async def test_it_is_not_handled_twice_when_it_was_replayed_before_the_group_had_come_past_it(
    settings: Identified, producer: Producer
) -> None:
    """Offsets are committed up to an event that is not done; what was parked behind it, and replayed, comes again."""
    await append(producer, "Note-1", "slow")
    with Probe(settings) as probe:
        (place,) = await until_there(probe)
    streams = [f"Note-{number}" for number in range(2, 40)]
    for stream in streams:
        await append(producer, stream, "poison")
    seen = Handled()
    seen.poison = {"poison"}
    stop = asyncio.Event()
    waits = asyncio.Event()
    one = Subscription("s", failures=Failures(attempts_max=1), stop_timeout_s=0.1)

    @one.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        if event.data.text == "slow":
            await waits.wait()
        if event.data.text in seen.poison:
            raise ValueError("cannot bear it")
        seen.texts.append(event.stream)

    task = asyncio.create_task(one.run(stop, settings))
    found = await are_parked(settings, len(streams))
    seen.poison.clear()
    await write(settings, found)
    await are_parked(settings, 0)
    stop.set()
    async with asyncio.timeout(60):
        await task
    assert sorted(seen.texts) == sorted(streams)
    waits.set()
    async with consuming(one, settings):
        await holds(lambda: "Note-1" in seen.texts, "the slow one is handled")
        await append(producer, "Note-1", "last")
        await holds(lambda: seen.texts.count("Note-1") == 2, "and what comes after")
    assert len(seen.texts) == len(streams) + 2, f"twice: {place}"


async def until_there(probe: Probe) -> list[tuple[str, int]]:
    async def is_there() -> bool:
        return bool(await asyncio.to_thread(probe.last, probe.places(None)))

    await until(is_there, "it is published")
    return list(probe.last(probe.places(None)))
