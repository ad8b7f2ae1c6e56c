"""Brokers lose the end of their logs in an unclean election: all who were there stop, and nothing is skipped."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import asyncpg
import pytest
from confluent_kafka import KafkaException
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka import admin as kafka_admin
from support.cluster import BROKERS, TRANSACTIONS, Cluster, cluster, whole
from support.models import Noted
from support.projections import at_work, has, keeping, positions, schema_of
from support.reconciling import indexed_upto, pipeline, republish
from support.running import running
from support.subscribing import consuming, holds
from support.trial import Row
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.errors import LogMismatchError
from gatelog.core.services import Service, run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader, Subscription
from gatelog.schemas import RecordedEvent

STREAMS, PARTITIONS = 3, 2
FIRST, LOST, LATER = 12, 9, 6  # events
GROWN = 200  # records of somebody else, in each partition: the logs pass all offsets that are stored somewhere


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "kafka") as started:
        yield started


@pytest.fixture
async def careless(settings: Settings, brokers: Cluster) -> Settings:
    """Settings of a store whose topics take what a single broker holds; all three run when the test begins."""
    await whole(brokers)
    return settings.model_copy(
        update={
            "kafka": {"bootstrap.servers": brokers.servers},
            "topic_partitions": PARTITIONS,
            "topic_replication": 3,
            "topic_min_insync_replicas": 1,
        }
    )


async def led_by(brokers: Cluster, topics: Iterable[str], *leaders: int) -> None:
    """Wait until all partitions are led by some of ``leaders``, and no other replica counts as in sync."""

    def are_led() -> bool:
        with suppress(KafkaException):  # nobody answers yet
            return all(
                brokers.leader_of(topic, p) in leaders and brokers.in_sync_of(topic, p) <= set(leaders)
                for topic in topics
                for p in range(PARTITIONS if topic != TRANSACTIONS else 1)
            )
        return False

    await until(partial(asyncio.to_thread, are_led), f"brokers {leaders} lead")


def let_anybody_lead(settings: Settings) -> None:
    """Of this topic only: what groups have committed is to be there still."""
    entry = kafka_admin.ConfigEntry(  # type: ignore[attr-defined] # the client does not list these names
        "unclean.leader.election.enable",
        "true",
        incremental_operation=kafka_admin.AlterConfigOpType.SET,  # type: ignore[attr-defined]
    )
    topic = kafka_admin.ConfigResource(  # type: ignore[attr-defined]
        kafka_admin.ResourceType.TOPIC,  # type: ignore[attr-defined]
        topic_of(settings.store, "Note"),
        incremental_configs=[entry],
    )
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.incremental_alter_configs([topic]).values():
        future.result(timeout=30)


def grow(settings: Settings) -> None:
    """Write what is not ours, until every offset that was lost is there again."""
    writer = KafkaProducer({"bootstrap.servers": settings.kafka["bootstrap.servers"]})
    for partition in range(PARTITIONS):
        for _ in range(GROWN):
            writer.produce(topic_of(settings.store, "Note"), b"somebody else's", partition=partition)
    assert writer.flush(30) == 0


async def append(producer: Producer, events: int) -> None:
    for nth in range(events):
        await producer.append(f"Note-{nth % STREAMS}", [Noted(text="x")], expected_version=ANY)


async def ends_by(work: Awaitable[None], error: type[Exception], match: str) -> None:
    """Run something that is to end by itself."""
    with pytest.raises(error, match=match):
        async with asyncio.timeout(120):
            await work


@asynccontextmanager
async def at_its_own_risk(service: Service) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a service that may end by itself."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_all(stop, service))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task])


class Consumers:
    """A subscription, a projection and one in total order: what has a place of its own in the log."""

    def __init__(self, settings: Settings, rows: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._settings, self._rows = settings, rows
        self.seen: list[int] = []
        self.subscription = Subscription("notes", categories=["Note"])
        self.subscription.on(Noted)(self._see)
        self.projections = [keeping("apart", settings), keeping("together", settings, order="total")]

    async def _see(self, event: RecordedEvent[Noted]) -> None:
        self.seen.append(event.position or 0)

    async def prepare(self) -> None:
        for projection in self.projections:
            await projection.prepare(self._settings)

    async def come_to(self, events: int) -> None:
        """Work until all have seen so many."""
        async with consuming(self.subscription, self._settings), at_work(self._settings, *self.projections):
            await holds(lambda: len(set(self.seen)) >= events, f"{events} events are handled")
            for projection in self.projections:
                await has(self._rows, schema_of(projection.name, self._settings), events)

    async def have_all(self, events: int) -> None:
        """Nothing was skipped, and nothing came twice or out of order where that is promised."""
        wanted = list(range(1, events + 1))
        assert sorted(self.seen) == wanted
        apart, together = [await positions(self._rows, schema_of(p.name, self._settings)) for p in self.projections]
        assert (sorted(apart), together) == (wanted, wanted)


@pytest.mark.parametrize("busy", [False, True])
async def test_all_stop_by_name_and_the_documented_way_back_restores_all(
    careless: Settings,
    producer: Producer,
    brokers: Cluster,
    connection: "asyncpg.Connection[asyncpg.Record]",
    rows: "asyncpg.Connection[asyncpg.Record]",
    busy: bool,
    long: bool,
) -> None:
    """Also when the relay is idle; and when the logs have grown past every offset before anybody looks."""
    if busy and not long:
        pytest.skip("a relay that was in the middle of a tick waits for its outcome first; `make faults` runs it")
    *first, last = BROKERS
    topic, events = topic_of(careless.store, "Note"), FIRST + LOST
    consumers = Consumers(careless, rows)
    await consumers.prepare()
    async with AsyncExitStack() as block:
        relay = await block.enter_async_context(at_its_own_risk(Relay(careless)))
        async with Reader.connect(careless) as reader:
            async with running(Indexer(careless)):
                await append(producer, FIRST)
                await until(partial(indexed_upto, reader, FIRST), "the first events are indexed")
                await asyncio.to_thread(let_anybody_lead, careless)
                await whole(brokers, topic, TRANSACTIONS)
                brokers.kill(*first)
                await led_by(brokers, (topic, TRANSACTIONS), last)
                await append(producer, LOST)
                await until(partial(indexed_upto, reader, events), "what will be lost is indexed")
                await consumers.come_to(events)
            living = await block.enter_async_context(at_its_own_risk(Indexer(careless)))
            if busy:
                await append(producer, LATER)
                await Row(careless).moves(1)
                events += LATER
            brokers.kill(last)
            brokers.start(*first)
            await led_by(brokers, [topic], *first)
            await whole(brokers, topic, TRANSACTIONS)
            await ends_by(relay, LogMismatchError, r"Note.*was seen to reach|Kafka holds positions up to")
            await ends_by(living, LogMismatchError, "Note")
            await asyncio.to_thread(grow, careless)
            indexed = await reader.frontier()
            for service in Relay(careless), Indexer(careless):
                await ends_by(run_all(asyncio.Event(), service), LogMismatchError, r"Note.*has lost|positions up to")
            await consumers.have_all(FIRST + LOST)
            assert await reader.frontier() == indexed
    coming = asyncio.create_task(consumers.come_to(events + LATER))  # they look for their positions, and wait
    await republish(careless)
    await append(producer, LATER)
    async with pipeline(careless) as reader:
        await until(partial(indexed_upto, reader, events + LATER), "all is indexed")
        assert [event.position async for event in reader.all()] == list(range(1, events + LATER + 1))
        await coming
    await consumers.have_all(events + LATER)
    found = await verify(careless, lambda *_: None)
    assert found.agree, found.examples
