"""Two stores of one name, in two databases, on one Kafka: told apart by their ids."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.cimpl import NewTopic
from pydantic import SecretStr
from support.apart import connected
from support.kafka import Seen, records_of
from support.models import Noted
from support.projections import at_work, dropped_with_their_store, has, keeping, positions, schema_of
from support.reconciling import append, look, publish, refused, repair, republish
from support.running import running
from support.subscribing import consuming, holds
from support.waiting import until

from gatelog.console.store import _standing, initialise
from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.identity import ForeignStoreError, Identified, ask
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.indexer.rebuild import rebuild
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay, leadership
from gatelog.reader import Failures, Outgoing, Reader, Start, Subscription, Transform, follow
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.schemas import RecordedEvent

EVENTS = 12
TIMEOUT_S = 60
PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture
async def second(settings: Identified, spare_dsns: list[str]) -> AsyncIterator[Identified]:
    """A store of the same name in a database of its own; nothing was published yet."""
    there = settings.model_copy(update={"postgres_dsn": SecretStr(spare_dsns[0])})
    await initialise(there)
    yield await ask(there, "test")
    async with connected(there.dsn) as connection:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{settings.store}" CASCADE')
        await dropped_with_their_store(connection, settings)


@pytest.fixture
async def first(settings: Identified, second: Identified) -> Identified:
    """The other one, which has published."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *map(str, range(EVENTS - 1)))
        await append(producer, "Other-1", "x")
    await publish(settings, EVENTS)
    async with Producer.connect(second) as producer:
        await append(producer, "Note-1", "a", "b")
        await append(producer, "Third-1", "c")
    return settings


async def groups_of(settings: Settings) -> dict[str, int]:
    """Return the consumer groups of the name that have members, and how many."""
    return await asyncio.to_thread(_groups_of, settings)


def _groups_of(settings: Settings) -> dict[str, int]:
    admin = kafka.admin(settings.kafka_properties)
    prefix = f"gatelog.{settings.store}."
    names = [each.group_id for each in admin.list_consumer_groups().result().valid]
    wanted = [name for name in names if name.startswith(prefix)]
    found = {name: admin.describe_consumer_groups([name])[name].result() for name in wanted}
    return {name: len(each.members) for name, each in found.items() if each.members}


def make_topic(settings: Settings) -> None:
    """Make the topic of notes in advance, as whoever runs Kafka may."""
    made = [NewTopic(topic_of(settings.store, "Note"), num_partitions=settings.topic_partitions)]
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.create_topics(made).values():
        future.result(TIMEOUT_S)


async def ended(work: Awaitable[object], theirs: Identified) -> ForeignStoreError:
    """Wait until a part of the second store has ended for that reason."""
    with pytest.raises(ForeignStoreError) as raised:
        async with asyncio.timeout(TIMEOUT_S):
            await work
    assert raised.value.other == str(theirs.store_id)
    assert "another name" in str(raised.value)
    return raised.value


async def indexing(settings: Settings) -> None:
    await run_all(asyncio.Event(), Indexer(settings))


async def held(settings: Settings) -> list[str]:
    """Return the ids of all events that a store's index holds."""
    async with connected(settings.dsn) as connection:
        rows = await connection.fetch(f"SELECT event_id FROM {settings.store}.events ORDER BY position")
        return [str(row[0]) for row in rows]


# --- relay, indexer and tools ---------------------------------------------------------------------------


async def test_the_relay_of_the_second_store_writes_nothing(first: Identified, second: Identified) -> None:
    """Nor does it fence the first one, which goes on."""
    async with running(Relay(first)), Producer.connect(first) as producer:
        before = len(await asyncio.to_thread(records_of, first))
        error = await ended(refused(second), first)
        assert f"gatelog init --id {first.store_id}" in str(error)
        await producer.published(await producer.append("Note-1", [Noted(text="more")], expected_version=ANY))
    records = await asyncio.to_thread(records_of, first)
    assert len(records) == before + 1
    assert {record.headers["ce_source"] for record in records} == {first.source}


async def test_the_relay_of_the_second_store_was_there_before(
    settings: Identified, second: Identified, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had nothing to publish yet. The name is of the first one that publishes."""
    monkeypatch.setattr(leadership, "WATCH_INTERVAL_S", 0.1)
    waiting = asyncio.create_task(refused(second))
    async with Producer.connect(settings) as producer, running(Relay(settings)):
        events = await append(producer, "Note-1", "a")
        await ended(waiting, settings)
        events += await append(producer, "Note-1", "b")

        async def are_there() -> bool:
            return [each.event_id for each in await asyncio.to_thread(records_of, settings)] == events

        await until(are_there, "the first one goes on")


async def test_the_indexer_of_the_second_store_takes_nothing(first: Identified, second: Identified) -> None:
    """No partition of the first one's group, and no event."""
    async with running(Indexer(first)):

        async def is_in() -> bool:
            return bool(await groups_of(first))

        await until(is_in, "the first indexer is in its group")
        (group,) = await groups_of(first)
        await ended(indexing(second), first)
        assert await groups_of(first) == {group: 1}
    assert await held(second) == []
    assert len(await held(first)) == EVENTS


async def test_an_indexer_that_waits_for_the_first_record_of_all(settings: Identified, second: Identified) -> None:
    """Both wait. When the first store publishes, its own indexer goes on, and the other one ends."""
    await asyncio.to_thread(make_topic, settings)
    waiting = asyncio.create_task(indexing(second))
    async with running(Indexer(settings)):

        async def are_in() -> bool:
            return sum((await groups_of(settings)).values()) == 2

        await until(are_in, "both are in a group")
        async with (
            Producer.connect(settings) as producer,
            running(Relay(settings)),
            Reader.connect(settings) as reader,
        ):
            ids = await append(producer, "Note-1", *"abcdef")
            assert await reader.indexed(ids) == [1, 2, 3, 4, 5, 6]
            await ended(waiting, settings)
    assert await held(second) == []


@pytest.mark.parametrize(
    "tool", [look, repair, republish, partial(verify, report=silent), partial(rebuild, report=silent)]
)
async def test_a_tool_of_the_second_store_refuses(
    tool: Callable[[Settings], Awaitable[object]], first: Identified, second: Identified
) -> None:
    before = await asyncio.to_thread(records_of, first)
    await ended(tool(second), first)
    assert await asyncio.to_thread(records_of, first) == before
    done = await verify(first, silent)
    assert done.agree, done.examples


# --- subscriptions, projections, transforms --------------------------------------------------------------


def subscription(start: Start) -> tuple[Subscription, list[str]]:
    made, seen = Subscription("reads", start=start), []

    @made.on(Noted)
    async def note(event: RecordedEvent[Noted]) -> None:
        seen.append(event.data.text)

    return made, seen


@PROTOCOLS
@pytest.mark.parametrize("start", [Start.beginning(), Start.now()])
async def test_a_subscription_of_the_second_store(
    start: Start, protocol: str, first: Identified, second: Identified
) -> None:
    """It ends at the first record that it meets, and is in a group of its own meanwhile."""
    ours, theirs = (each.model_copy(update={"subscription_protocol": protocol}) for each in (first, second))
    (mine, seen), (other, foreign) = subscription(Start.beginning()), subscription(start)
    async with consuming(mine, ours):
        await holds(lambda: len(seen) == EVENTS, "the first one has read everything")
        work = asyncio.create_task(other.run(asyncio.Event(), theirs))
        async with running(Relay(first)), Producer.connect(first) as producer:
            await append(producer, "Note-1", "more")
            await ended(work, first)
            await holds(lambda: len(seen) == EVENTS + 1, "the first one goes on")
            assert set(await groups_of(first)) <= {mine.group_of(first), other.group_of(second)}
    assert (len(seen), foreign) == (EVENTS + 1, [])


async def test_a_subscription_of_the_second_store_that_wants_other_types(
    first: Identified, second: Identified
) -> None:
    async def read() -> None:
        async with aclosing(Subscription("reads").events(settings=second, types=["Unheard"])) as events:
            async for _ in events:
                raise AssertionError("an event")

    await ended(read(), first)


@PROTOCOLS
@pytest.mark.parametrize("order", ["partition", "total"])
async def test_a_projection_of_the_second_store(
    order: str, protocol: str, first: Identified, second: Identified, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    ours, theirs = (each.model_copy(update={"subscription_protocol": protocol}) for each in (first, second))
    mine, other = keeping("model", ours, order=order), keeping("model", theirs, order=order)
    await mine.prepare(ours)
    await other.prepare(theirs)
    async with at_work(ours, mine):
        await ended(other.run(asyncio.Event(), theirs), first)
        await has(rows, schema_of("model", first), EVENTS)
    assert sorted(await positions(rows, schema_of("model", first))) == list(range(1, EVENTS + 1))
    async with connected(second.dsn) as there:
        assert await positions(there, schema_of("model", second)) == []


@pytest.mark.parametrize("order", ["partition", "total"])
async def test_two_projections_in_one_database(
    order: str, first: Identified, second: Identified, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Of one name, in the database of the first store's read models: the second one may neither prepare nor run."""
    mine = keeping("model", first, order=order)
    await mine.prepare(first)
    other = keeping("model", second, order=order, postgres_dsn=first.dsn)
    for attempt in (other.prepare(second), other.run(asyncio.Event(), second), other.drop(1, second)):
        await ended(attempt, first)
    with pytest.raises(ForeignStoreError):
        await other.standing(second)
    async with at_work(first, mine):
        await has(rows, schema_of("model", first), EVENTS)


@PROTOCOLS
async def test_a_transform_of_the_second_store(protocol: str, first: Identified, second: Identified) -> None:
    theirs = second.model_copy(update={"subscription_protocol": protocol})
    transform = Transform("copies")

    @transform.each
    async def copy(event: RecordedEvent[Any]) -> list[Outgoing]:
        raise AssertionError(f"an event: {event}")

    await ended(transform.run(asyncio.Event(), theirs), first)


async def test_following_the_second_store(first: Identified, second: Identified) -> None:
    async def read() -> None:
        async for event in follow(settings=second):
            raise AssertionError(f"an event: {event}")

    await ended(read(), first)


@pytest.mark.classic
async def test_parked_events_of_both(first: Identified, second: Identified) -> None:
    """The second one has a topic of its own for them, and sees nothing of the first one's."""
    parks = Subscription("parks", failures=Failures(attempts_max=1))

    @parks.on(Noted)
    async def fail(_event: RecordedEvent[Noted]) -> None:
        raise RuntimeError("no")

    def parked(settings: Identified) -> int:
        with ParkedTopic(settings, "parks") as topic:
            return len(topic.all())

    async with consuming(parks, first):
        await holds(lambda: parked(first) == EVENTS, "all are parked")
    assert parked(second) == 0
    standing = await parks.standing(first)
    assert standing is not None
    assert standing.parked == EVENTS


# --- a record of a namesake in a topic of ours ------------------------------------------------------------


def forge(settings: Settings, ours: Seen, source: str) -> None:
    """Copy a record under another source, to the end of its partition and to those that hold nothing."""
    writer = KafkaProducer(settings.kafka_properties)
    headers: list[tuple[str, str | bytes | None]] = [*{**ours.headers, "ce_source": source}.items()]
    for partition in range(3):
        writer.produce(ours.topic, ours.value, ours.key, partition=partition, headers=headers)
    assert writer.flush(TIMEOUT_S) == 0


@PROTOCOLS
async def test_a_record_of_a_namesake_in_a_topic_of_ours_stops_nothing(
    protocol: str, first: Identified, second: Identified, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Anybody who may write could put it there: a topic is the store's whose records it begins with."""
    ours = first.model_copy(update={"subscription_protocol": protocol})
    record = (await asyncio.to_thread(records_of, first))[0]
    await asyncio.to_thread(forge, first, record, second.source)
    mine, seen = subscription(Start.beginning())
    total, shared = keeping("total", ours, order="total"), keeping("shared", ours)
    for projection in (total, shared):
        await projection.prepare(ours)
    async with (
        running(Relay(first), Indexer(first)),
        at_work(ours, total, shared),
        consuming(mine, ours),
        Producer.connect(first) as producer,
        Reader.connect(first) as reader,
    ):
        await asyncio.to_thread(forge, first, record, second.source)
        ids = await append(producer, "Note-1", "more")
        assert await reader.indexed(ids) == [EVENTS + 1]
        await holds(lambda: len(seen) == EVENTS + 1, "the subscription has read everything")
        for name in ("total", "shared"):
            await has(rows, schema_of(name, first), EVENTS + 1)
    done = await verify(first, silent)
    assert (done.agree, done.foreign) == (True, 6), done.examples
    assert (await look(first)).agree


# --- gatelog init and status ------------------------------------------------------------------------------


async def test_init_of_a_second_store_is_refused_at_once(first: Identified, spare_dsns: list[str]) -> None:
    there = first.model_copy(update={"postgres_dsn": SecretStr(spare_dsns[1])})
    error = await ended(initialise(there), first)
    assert f"gatelog init --id {first.store_id}" in str(error)
    with pytest.raises(ForeignStoreError):
        await initialise(there, store_id=uuid4())
    async with connected(there.dsn) as connection:
        assert await connection.fetchval("SELECT to_regnamespace($1)", first.store) is None
        await initialise(there.model_copy(update={"kafka": {}}))  # nobody to ask
        await connection.execute(f"DROP SCHEMA {first.store} CASCADE")


async def test_init_of_a_store_that_is_there_says_what_is_in_its_way(first: Identified, second: Identified) -> None:
    async with connected(second.dsn) as connection:
        await connection.execute(f"DROP VIEW {second.store}.pending_events CASCADE")
    assert await initialise(second) == []
    report = await _standing(second)
    assert report["store_id"] == str(second.store_id)
    assert str(first.store_id) in report["kafka_trouble"]
    assert (await _standing(first))["kafka_trouble"] is None
