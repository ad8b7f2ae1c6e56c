"""``Start.at_time``: a condition on what is read, until the first record of that time was met in the partition."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from support.models import Noted
from support.retention import forget, indexed
from support.subscribing import append, consuming, holds
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader, Start, Subscription
from gatelog.schemas import RecordedEvent

pytestmark = pytest.mark.usefixtures("pipeline")


@pytest.fixture(params=["classic", "consumer"])
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    return settings.model_copy(update={"subscription_protocol": request.param})


class Seen:
    """Texts that were handled by a subscription that begins at a time."""

    def __init__(self, at: datetime, **options: int) -> None:
        self.texts: list[str] = []
        self.subscription = Subscription("timed", start=Start.at_time(at), **options)  # type: ignore[arg-type] # one

        @self.subscription.on(Noted)
        async def note(event: RecordedEvent[Noted]) -> None:
            self.texts.append(event.data.text)


@asynccontextmanager
async def following(subscription: Subscription, settings: Settings) -> AsyncIterator[None]:
    """Run it, and wait until it has begun in every partition that there is, before the block."""
    async with consuming(subscription, settings):

        async def has_begun() -> bool:
            standing = await subscription.standing(settings)
            facts = [] if standing is None else [member.facts for member in standing.members if member.beat_s_ago < 5]
            return any(each["partitions"] == settings.topic_partitions for each in facts)

        await until(has_begun, "it has its partitions")
        yield


async def is_passed_over(subscription: Subscription, settings: Settings) -> None:
    """Wait until everything that was published is behind it: then it will not be handled any more."""

    async def is_at_the_end() -> bool:
        standing = await subscription.standing(settings)
        return standing is not None and standing.lag_positions == 0

    await until(is_at_the_end, "it has come to the end")


async def moment(reader: Reader, count: int) -> datetime:
    """Return the time of the last of ``count`` events; appends after this come at a later one."""
    await indexed(reader, count)
    return [event.recorded_at async for event in reader.all()][-1]


async def test_what_comes_before_that_time_is_passed_over_also_by_later_members(
    settings: Settings, producer: Producer, reader: Reader
) -> None:
    await append(producer, "Note-1", "old")
    await indexed(reader, 1)
    at = datetime.now(UTC) + timedelta(seconds=25)
    seen = Seen(at)
    for text in ("early", "later, and early still"):
        async with following(seen.subscription, settings):
            for number in range(9):
                await append(producer, f"Note-{number}", text)
            await is_passed_over(seen.subscription, settings)
    assert datetime.now(UTC) < at, "too slow a machine for this test"
    assert seen.texts == []
    async with following(seen.subscription, settings):
        await asyncio.sleep((at - datetime.now(UTC)).total_seconds())  # the fact is a time
        await append(producer, "Note-1", "due", "and all that follows")
        await holds(lambda: len(seen.texts) == 2, "what is due is handled")
    assert seen.texts == ["due", "and all that follows"]


async def test_a_time_far_ahead_with_partitions_that_come_later(
    settings: Settings, producer: Producer, reader: Reader
) -> None:
    seen = Seen(datetime.now(UTC) + timedelta(days=1))
    async with consuming(seen.subscription, settings):

        async def has_begun() -> bool:
            standing = await seen.subscription.standing(settings)
            return standing is not None and standing.is_active

        await until(has_begun, "it runs")
        for number in range(9):
            await append(producer, f"Note-{number}", "early")
        await indexed(reader, 9)
        await until(has_committed(seen.subscription, settings), "it has found the topic")
        await is_passed_over(seen.subscription, settings)
    assert seen.texts == []


def has_committed(subscription: Subscription, settings: Settings) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        standing = await subscription.standing(settings)
        return standing is not None and any(member.facts["partitions"] for member in standing.members)

    return asked


async def test_it_is_exact_within_a_millisecond(settings: Settings, producer: Producer, reader: Reader) -> None:
    await append(producer, "Note-1", "before")
    at = await moment(reader, 1) + timedelta(microseconds=1)
    await append(producer, "Note-1", "after")
    seen = Seen(at)
    async with consuming(seen.subscription, settings):
        await holds(lambda: len(seen.texts) > 0, "it is handled")
    assert seen.texts == ["after"]


async def test_what_the_index_tells_is_asked_too(settings: Settings, producer: Producer, reader: Reader) -> None:
    """Kafka has forgotten all, and nothing in it is of that time; what comes then is too early still."""
    for number in range(9):
        await append(producer, f"Note-{number}", "old")
    await indexed(reader, 9)
    await forget(settings)
    seen = Seen(datetime.now(UTC) + timedelta(days=1))
    for round_ in range(2):
        async with following(seen.subscription, settings):
            for number in range(9):
                await append(producer, f"Note-{number}", "early")
            await is_passed_over(seen.subscription, settings)
        assert seen.texts == []
        await indexed(reader, 18 + 9 * round_)
        await forget(settings)


async def test_loops_ask_too_and_go_on_where_they_were(
    settings: Settings, producer: Producer, reader: Reader
) -> None:
    """The event at hand when a loop is left comes again, in whatever partition the time was met or was not."""
    for number in range(9):
        await append(producer, f"Note-{number}", "old")
    at = await moment(reader, 9) + timedelta(microseconds=1)
    for number in range(9):
        await append(producer, f"Note-{number}", "new")
    subscription = Subscription("loop", start=Start.at_time(at))
    found: list[tuple[str, str]] = []
    for count in (3, 6):
        stop = asyncio.Event()
        async with asyncio.timeout(60), aclosing(subscription.events(stop, settings)) as events:
            async for event in events:
                found.append((event.stream, event.as_dict()["text"]))
                if len(found) == (3 if count == 3 else 9):
                    stop.set()
    assert sorted(found) == [(f"Note-{number}", "new") for number in range(9)]


async def test_another_that_starts_like_it_asks_too(settings: Settings, producer: Producer, reader: Reader) -> None:
    await append(producer, "Note-1", "old")
    await indexed(reader, 1)
    seen = Seen(datetime.now(UTC) + timedelta(days=1))
    async with following(seen.subscription, settings):
        await is_passed_over(seen.subscription, settings)
    other = Subscription("other", start=Start.like("timed"))
    texts: list[str] = []

    @other.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        texts.append(event.data.text)

    async with following(other, settings):
        await producer.append("Note-1", [Noted(text="early")], expected_version=ANY)
        await is_passed_over(other, settings)
    assert texts == []
