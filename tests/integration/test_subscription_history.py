"""Subscriptions whose next events Kafka has forgotten: the index tells them, and hands over to Kafka exactly."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from support.models import Noted
from support.projections import Connection, fill
from support.retention import forget, forget_before, indexed
from support.running import running
from support.subscribing import consuming, holds, published
from support.waiting import until

from gatelog.core.errors import HistoryGoneError
from gatelog.core.identity import Identified
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Failures, Reader, Start, Subscription
from gatelog.reader.subscriptions import client, history
from gatelog.reader.subscriptions.catching_up import CatchingUp
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.probing import Probe
from gatelog.schemas import RecordedEvent

pytestmark = pytest.mark.classic
Seen = list[RecordedEvent]
Way = Callable[[Subscription, Identified, int], Awaitable[Seen]]


async def looped(subscription: Subscription, settings: Identified, count: int) -> Seen:
    """Read ``count`` events in a loop, and leave behind the last."""
    found: Seen = []
    stop = asyncio.Event()
    async with asyncio.timeout(60), aclosing(subscription.events(stop, settings)) as events:
        async for event in events:
            found.append(event)
            if len(found) == count:
                stop.set()
    return found


async def handled(subscription: Subscription, settings: Identified, count: int) -> Seen:
    """Handle ``count`` events, and what comes until the subscription has ended."""
    found: Seen = []
    other = Subscription(
        subscription.name, categories=subscription._categories, start=subscription._start, concurrency=4
    )

    @other.on()
    async def keep(event: RecordedEvent) -> None:
        found.append(event)

    async with consuming(other, settings):
        await holds(lambda: len(found) >= count, f"{count} events are handled")
    return found


async def has_begun(subscription: Subscription, settings: Identified) -> bool:
    standing = await subscription.standing(settings)
    return standing is not None and standing.is_active


def judge(seen: Sequence[RecordedEvent], positions: Sequence[int]) -> None:
    """Each of these positions came once, and each stream in its order."""
    assert sorted(event.position or 0 for event in seen) == list(positions)
    streams: dict[str, list[int]] = defaultdict(list)
    for event in seen:
        streams[event.stream].append(event.version)
    assert all(versions == sorted(versions) for versions in streams.values()), "out of order"


@pytest.mark.parametrize("way", [looped, handled])
async def test_nothing_is_missed_or_doubled_where_the_topics_have_forgotten(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None, way: Way
) -> None:
    subscription = Subscription("late")
    seen = await way(subscription, settings, await fill(producer, 30))
    judge(seen, range(1, 31))
    await fill(producer, 60)
    await indexed(reader, 90)
    await forget(settings)  # from where the group stands, which is another position in each partition
    await fill(producer, 30)  # in Kafka, and perhaps not in the index
    seen += await way(subscription, settings, 90)
    judge(seen, range(1, 121))
    expected = {event.position: event async for event in reader.all()}
    assert all(event == expected[event.position] for event in seen), "as the index has it"
    seen = await way(Subscription("later"), settings, 120)  # from the beginning
    judge(seen, range(1, 121))
    await indexed(reader, 120)
    await forget(settings)  # all of it, with nothing left to read: no reason for an error
    await fill(producer, 10)
    judge(await way(Subscription("later"), settings, 10), range(121, 131))


async def test_a_loop_that_is_left_in_its_history_goes_on_there(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None
) -> None:
    """Progress in the index is committed with the group's offsets, so that a restart neither skips nor repeats."""
    settings = settings.model_copy(update={"subscription_protocol": "consumer", "subscription_events_max": 20})
    await fill(producer, 120)
    await indexed(reader, 120)
    await forget(settings)
    await fill(producer, 20)
    seen: Seen = []
    for count in (45, 95):
        seen += await looped(Subscription("resumed"), settings, count)
        standing = await Subscription("resumed").standing(settings)
        assert standing is not None
        left = set(range(1, 141)) - {event.position for event in seen}
        assert standing.lag_positions == (141 - min(left) if left else 0), "of the index too"
    judge(seen, range(1, 141))


async def test_starts_that_kafka_has_forgotten(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None
) -> None:
    await fill(producer, 40)
    await indexed(reader, 40)
    between = datetime.now(UTC)
    await fill(producer, 20)
    assert len(await looped(Subscription("other"), settings, 60)) == 60
    await fill(producer, 20)
    await indexed(reader, 80)
    await forget(settings)
    now = Subscription("now", start=Start.now())
    following = asyncio.create_task(looped(now, settings, 5))

    await until(lambda: has_begun(now, settings), "it has begun")
    await fill(producer, 5)
    judge(await following, range(81, 86))
    for name, start, first in (
        ("after", Start.after(50), 51),
        ("time", Start.at_time(between), 41),
        ("like", Start.like("other"), 61),
    ):
        judge(await looped(Subscription(name, start=start), settings, 86 - first), range(first, 86))


async def test_a_topic_that_lost_its_beginning_only(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None
) -> None:
    """As retention does it: each partition begins somewhere."""
    await fill(producer, 120)
    await indexed(reader, 120)
    with Probe(settings) as probe:
        middles = {place: (low + high) // 2 for place, (low, high) in probe.bounds(probe.places(None)).items()}
    await forget_before(settings, middles)
    judge(await looped(Subscription("whole"), settings, 120), range(1, 121))
    judge(await looped(Subscription("some", categories=["Note"]), settings, 40), range(1, 121, 3))
    with Probe(settings) as probe:
        first = min(record.position for _, record, _ in probe.first(middles).values())
    within = Subscription("within", start=Start.after(first + 5))
    judge(await looped(within, settings, 115 - first), range(first + 6, 121))


async def test_retention_that_overtakes_a_reader(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is slow, and what comes next is removed: it goes on from the index, without being started again."""
    monkeypatch.setattr(client, "PREFETCH_KBYTES", 1)
    settings = settings.model_copy(update={"subscription_events_max": 10})
    await fill(producer, 10, ["Note"])
    seen: Seen = []
    go_on = asyncio.Event()
    subscription = Subscription("slow", categories=["Note"], concurrency=1)

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        seen.append(event)
        await go_on.wait()

    async with consuming(subscription, settings):
        await holds(lambda: len(seen) > 0, "it reads")
        notes = [Noted(text="x" * 60_000)] * 10  # more than a member holds, and its client fetches ahead
        for number in range(14):
            await producer.append(f"Note-{number % 7}", notes, expected_version=ANY)
        await indexed(reader, 150)
        await forget(settings)
        go_on.set()
        await holds(lambda: len(seen) >= 150, "all are handled")
    judge(seen, range(1, 151))


async def test_retention_that_goes_on_during_the_history(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None
) -> None:
    """Where Kafka was to take over, it has forgotten too by then: the index tells that as well."""
    settings = settings.model_copy(update={"subscription_events_max": 10})
    await fill(producer, 60)
    await indexed(reader, 60)
    await forget(settings)
    await fill(producer, 30)
    seen: Seen = []
    go_on = asyncio.Event()
    subscription = Subscription("long", concurrency=1)

    @subscription.on()
    async def keep(event: RecordedEvent) -> None:
        seen.append(event)
        await go_on.wait()

    async with consuming(subscription, settings):
        await holds(lambda: len(seen) > 0, "it reads the index")
        await indexed(reader, 90)
        await forget(settings)
        await fill(producer, 30)
        go_on.set()
        await holds(lambda: len(seen) >= 120, "all are handled")
    judge(seen, range(1, 121))


async def test_records_that_come_while_the_index_tells_them_too_are_passed_over(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition looked empty; then records came, and the index had them before it was asked how far it is."""
    monkeypatch.setattr(CatchingUp, "_first_positions", lambda _self, _lows: {})
    await fill(producer, 30)
    await indexed(reader, 30)
    await forget(settings)
    await fill(producer, 30)
    await indexed(reader, 60)
    subscription = Subscription("both")
    following = asyncio.create_task(handled(subscription, settings, 65))
    await until(lambda: has_begun(subscription, settings), "it has begun")
    await fill(producer, 5)
    judge(await following, range(1, 66))


async def test_an_event_of_the_index_is_parked_and_replayed_like_any_other(
    settings: Identified, producer: Producer, reader: Reader, pipeline: None
) -> None:
    await producer.append("Note-1", [Noted(text=text) for text in ("a", "poison", "b")], expected_version=0)
    await indexed(reader, 3)
    await forget(settings)
    subscription = Subscription("parks", failures=Failures(attempts_max=1))
    is_cured, seen = False, list[str]()

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        if event.data.text == "poison" and not is_cured:
            raise ValueError("cannot bear it")
        seen.append(event.data.text)

    def parked() -> list[tuple[str, int, int]]:
        with ParkedTopic(settings, "parks") as topic:
            return [(event.stream, event.version, event.offset) for event in topic.all()]

    async def are_parked() -> bool:
        return len(await asyncio.to_thread(parked)) == 2

    async with consuming(subscription, settings):
        await until(are_parked, "the poison and its follower are parked")
        assert await asyncio.to_thread(parked) == [("Note-1", 2, -1), ("Note-1", 3, -1)]
        is_cured = True
        with ParkedTopic(settings, "parks") as topic:
            asked = [(event.event_id, event.asked_again()) for event in await asyncio.to_thread(topic.all)]
            await asyncio.to_thread(topic.write, asked)
        await holds(lambda: len(seen) == 3, "they are handled")
    assert seen == ["a", "poison", "b"]


async def test_what_is_nowhere_is_named(
    settings: Identified,
    producer: Producer,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "INDEX_PATIENCE_S", 0.5)
    async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:
        await fill(producer, 10, ["Note"])
        await indexed(reader, 10)
    async with running(Relay(settings)):
        await fill(producer, 10, ["Note"])
        await published(connection, settings, 20)
    await forget(settings)
    with pytest.raises(HistoryGoneError, match="up to position 10 only"):
        await looped(Subscription("lost"), settings, 1)
