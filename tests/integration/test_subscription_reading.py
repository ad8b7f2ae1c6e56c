"""Where subscriptions begin, loops over events, filters, bounds on what is held, and where subscriptions stand."""

import asyncio
from collections import defaultdict
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from support.models import Noted
from support.subscribing import append, consuming, holds, published
from support.waiting import until

from gatelog.core.domain import topic_of
from gatelog.core.errors import InvalidInputError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Start, Subscription
from gatelog.schemas import Event, RecordedEvent
from gatelog.schemas.upcasting import Part, forget, upcast

pytestmark = [pytest.mark.classic, pytest.mark.usefixtures("relay")]


class Moved(Event):
    was: str
    now: str


class Paid(Event):
    amount: int


async def texts(subscription: Subscription, settings: Settings, count: int) -> list[str]:
    """Read ``count`` events in a loop, leave, and return them in the order of positions."""
    found: list[tuple[int, str]] = []
    stop = asyncio.Event()
    async with asyncio.timeout(60):
        async for event in subscription.events(stop, settings):
            assert event.position is not None
            found.append((event.position, event.as_dict()["text"]))
            if len(found) == count:
                stop.set()
    return [text for _, text in sorted(found)]


async def test_starts(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for number in range(20):
        await append(producer, f"Note-{number % 5}", str(number))
    await published(connection, settings, 20)
    between = datetime.now(UTC)
    now = Subscription("now", start=Start.now(), categories=["Note", "Late"])
    ready = asyncio.Event()

    async def follow() -> list[str]:
        return await texts(now, settings, 3)

    following = asyncio.create_task(follow())

    async def is_remembered() -> bool:
        return bool(await connection.fetchval(f"SELECT count(*) FROM {settings.store}.subscriptions"))

    await until(is_remembered, "the start is decided")
    await append(producer, "Note-7", "20")
    await append(producer, "Late-1", "21", "22")  # a new category, which did not exist at the start
    assert await following == ["20", "21", "22"]
    ready.set()
    everything = [str(number) for number in range(23)]
    assert await texts(Subscription("all"), settings, 23) == everything
    assert await texts(Subscription("after", start=Start.after(12)), settings, 11) == everything[12:]
    assert await texts(Subscription("time", start=Start.at_time(between)), settings, 3) == everything[20:]
    before = datetime(1970, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1)  # -1 ms: to Kafka the end
    assert await texts(Subscription("before", start=Start.at_time(before)), settings, 23) == everything
    last = await connection.fetchval(f"SELECT max(recorded_at) FROM {settings.store}.pending_events")
    (found,) = await texts(Subscription("within a millisecond", start=Start.at_time(last)), settings, 1)
    assert found in everything[20:], "Kafka's times are cut, not rounded"
    await append(producer, "Note-7", "23")
    assert await texts(Subscription("like", start=Start.like("after")), settings, 1) == ["23"]
    async with asyncio.timeout(60):
        with pytest.raises(InvalidInputError, match="no subscription of that name has run"):
            await texts(Subscription("x", start=Start.like("nobody")), settings, 1)


async def test_now_is_when_the_first_member_starts_also_where_there_is_no_topic_yet(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """It was when the first partition came: everything that was published until then was passed over."""
    following = asyncio.create_task(texts(Subscription("now", start=Start.now(), categories=["Late"]), settings, 2))

    async def is_remembered() -> bool:
        return bool(await connection.fetchval(f"SELECT count(*) FROM {settings.store}.subscriptions"))

    await until(is_remembered, "the start is decided")
    await append(producer, "Late-1", "first", "second")
    assert await following == ["first", "second"]


async def test_a_loop_that_is_left_comes_again_at_the_event_it_was_left_at(
    settings: Settings, producer: Producer
) -> None:
    await append(producer, "Note-1", *map(str, range(10)))
    subscription = Subscription("loop")

    async def read(upto: str) -> list[str]:
        found = []
        async with asyncio.timeout(60), aclosing(subscription.events(None, settings)) as events:
            async for event in events:
                found.append(event.as_dict()["text"])
                if found[-1] == upto:
                    break
        return found

    assert await read("3") == ["0", "1", "2", "3"]
    assert await read("5") == ["3", "4", "5"], "the one at hand was not past yet"
    assert await texts(subscription, settings, 5) == ["5", "6", "7", "8", "9"]
    await append(producer, "Note-1", "10")
    assert await texts(subscription, settings, 1) == ["10"], "after a stop, what was handled is past"


async def test_other_types_pass_by_undecoded_and_strangers_too(settings: Settings, producer: Producer) -> None:
    await producer.append("Mix-1", [Noted(text="a"), Paid(amount=1), Noted(text="b")], expected_version=ANY)
    subscription, other = Subscription("some", categories=["Mix"]), Subscription("every", categories=["Mix"])
    notes: list[RecordedEvent] = []
    rest: list[str] = []

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        notes.append(event)

    @other.on(Paid)
    async def pay(event: RecordedEvent[Paid]) -> None:
        rest.append(f"paid {event.data.amount}")

    @other.on()
    async def every(event: RecordedEvent) -> None:
        rest.append(event.type)

    async with consuming(subscription, settings):
        await holds(lambda: len(notes) == 2, "both notes")
        stranger = KafkaProducer(settings.kafka_properties)
        stranger.produce(topic_of(settings.store, "Mix"), b"x", b"Mix-1", headers=[("ce_type", b"Noted")])
        stranger.flush(30)
        await append(producer, "Mix-1", "c")
        await holds(lambda: len(notes) == 3, "the stranger's record is passed over")
    async with consuming(other, settings):
        await holds(lambda: len(rest) == 4, "the fallback takes what has no handler of its own")
    assert sorted(rest) == ["Noted", "Noted", "Noted", "paid 1"]
    first = notes[0]
    assert first == next(each for each in notes if each.version == 1)
    assert (first.stream, first.category, first.metadata, first.causation_id) == ("Mix-1", "Mix", {}, None)
    assert "Mix-1@1 Noted" in repr(first)


async def test_events_that_an_upcaster_splits_are_handled_in_parts(settings: Settings, producer: Producer) -> None:
    await producer.append("Mix-1", [Moved(was="a", now="b"), Noted(text="c")], expected_version=ANY)

    @upcast(Moved, from_version=1, into=[Noted])
    def split(payload: dict[str, Any]) -> list[Part]:
        return [Part(Noted, {"text": payload["was"]}), Part(Noted, {"text": payload["now"]})]

    try:
        subscription = Subscription("parts")
        seen: list[str] = []

        @subscription.on(Noted)
        async def note(event: RecordedEvent[Noted]) -> None:
            seen.append(f"{event.data.text} {event.part}/{event.parts}")

        async with consuming(subscription, settings):
            await holds(lambda: len(seen) == 3, "all parts are handled")
        assert seen == ["a 1/2", "b 2/2", "c 1/1"]
        read: list[str] = []
        stop = asyncio.Event()
        async with asyncio.timeout(60):
            async for event in Subscription("loop").events(stop, settings, types=[Noted]):
                assert isinstance(event.data, Noted)
                read.append(event.data.text)
                if len(read) == 3:
                    stop.set()
        assert read == ["a", "b", "c"]
    finally:
        forget("Moved")


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_handlers_run_in_parallel_in_order_within_a_stream(
    settings: Settings, producer: Producer, protocol: str
) -> None:
    """Ten handlers wait for each other: were fewer running at once, they would wait for ever."""
    settings = settings.model_copy(update={"subscription_protocol": protocol})
    for stream in range(10):
        await append(producer, f"Note-{stream}", *map(str, range(5)))
    subscription = Subscription("parallel", concurrency=10)
    seen: dict[str, list[int]] = defaultdict(list)
    barriers = [asyncio.Barrier(10) for _ in range(5)]

    @subscription.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        await barriers[event.version - 1].wait()
        seen[event.stream].append(event.version)

    async with consuming(subscription, settings):
        await holds(lambda: sum(map(len, seen.values())) == 50, "all are handled")
    assert all(versions == [1, 2, 3, 4, 5] for versions in seen.values())


async def test_what_is_held_is_bounded_and_slow_handlers_keep_their_membership(
    settings: Settings, producer: Producer, long: bool
) -> None:
    """The handlers stand still until the member has filled its bounds, and paused; then everything arrives."""
    count = 20_000 if long else 1_000
    bounded = settings.model_copy(update={"subscription_events_max": 100})
    for stream in range(10):
        await producer.append(f"Note-{stream}", [Noted(text="x" * 100)] * (count // 10), expected_version=ANY)
    subscription = Subscription("bounded", concurrency=5)
    go_on = asyncio.Event()
    handled, standing = 0, None

    @subscription.on(Noted)
    async def note(_event: RecordedEvent[Noted]) -> None:
        nonlocal handled
        await go_on.wait()
        handled += 1

    async with consuming(subscription, bounded):

        async def is_full() -> bool:
            nonlocal standing
            standing = await subscription.standing(bounded)
            return (
                standing is not None and bool(standing.members) and standing.members[0].facts.get("waiting", 0) >= 95
            )

        await until(is_full, "it holds as much as it may")
        assert standing is not None
        (member,) = standing.members
        assert member.facts["waiting"] <= 100 + 1, "one poll may find the bound reached"
        assert member.trouble is None, "it still polls"
        assert standing.is_active
        assert standing.lag_positions == count
        assert standing.lag_s is not None
        assert standing.lag_s > 0
        go_on.set()
        await holds(lambda: handled == count, "all are handled, each once")
    after = await subscription.standing(bounded)
    assert after is not None
    assert (after.lag_positions, after.members, after.parked) == (0, (), 0)


async def test_a_broken_header_is_found_when_it_is_looked_at(settings: Identified, producer: Producer) -> None:
    """It claims to be ours and says what orders it; its time is nonsense."""
    await append(producer, "Note-1", "a")
    subscription = Subscription("broken")
    assert await texts(subscription, settings, 1) == ["a"]
    headers: list[tuple[str, str | bytes | None]] = [
        ("ce_source", settings.source), ("ce_id", "x"), ("ce_type", "Noted"), ("ce_subject", "Note-1"),
        ("ce_time", "soon"), ("ce_streamversion", "2"), ("ce_position", "2"),
    ]  # fmt: skip
    liar = KafkaProducer(settings.kafka_properties)
    liar.produce(topic_of(settings.store, "Note"), b"\0\0\0\0\x01\x02x", b"Note-1", headers=headers)
    liar.flush(30)
    stop = asyncio.Event()
    async with asyncio.timeout(60):
        async for event in subscription.events(stop, settings):
            with pytest.raises(UndecodableRecordError, match="not what it should be"):
                _ = event.recorded_at
            stop.set()
