"""Brokers lose the end of their logs by an unclean election: all who were there stop, and nothing is skipped."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
from confluent_kafka import KafkaException
from support.cluster import BROKERS, TRANSACTIONS, Cluster, cluster
from support.kafka import records_of
from support.models import Noted
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay

STREAMS, PARTITIONS = 3, 2
FIRST, LOST = 12, 9  # events


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    unclean = {"unclean.leader.election.enable": "true"}
    with cluster(tmp_path_factory.mktemp("cluster") / "kafka", unclean) as started:
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


async def whole(brokers: Cluster, *topics: str) -> None:
    """Start what is down, and wait until every replica has caught up."""
    brokers.start(*BROKERS)

    async def is_whole() -> bool:
        return await asyncio.to_thread(brokers.are_whole, topics)

    await until(is_whole, "all brokers are up and in sync")


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


async def append(producer: Producer, events: int) -> None:
    for nth in range(events):
        await producer.append(f"Note-{nth % STREAMS}", [Noted(text="x")], expected_version=ANY)


async def published(settings: Settings, events: int) -> None:
    async def are_there() -> bool:
        with suppress(KafkaUnavailableError, KafkaException):
            topics = await asyncio.to_thread(
                kafka.topics_of, kafka.admin(settings.kafka), settings.kafka, settings.store
            )
            return bool(topics) and len(await asyncio.to_thread(records_of, settings)) >= events
        return False

    await until(are_there, f"{events} events are published")


@asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a relay that may stop by itself."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_all(stop, Relay(settings)))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task])


async def lose_the_end(brokers: Cluster, settings: Settings, producer: Producer) -> None:
    """Publish something that only one broker holds, which dies; the others go on without."""
    *first, last = BROKERS
    topic = topic_of(settings.store, "Note")
    await whole(brokers, topic, TRANSACTIONS)
    brokers.kill(*first)
    await led_by(brokers, (topic, TRANSACTIONS), last)
    await append(producer, LOST)
    await published(settings, FIRST + LOST)
    brokers.kill(last)
    brokers.start(*first)
    await led_by(brokers, [topic], *first)


async def test_the_relay_stops(careless: Settings, producer: Producer, brokers: Cluster) -> None:
    """Idle, it notices too; and so does the next one that starts."""
    async with relaying(careless) as relay:
        await append(producer, FIRST)
        await published(careless, FIRST)
        await lose_the_end(brokers, careless, producer)
        with pytest.raises(LogMismatchError, match=r"Note.*was seen to reach.*gatelog republish"):
            await asyncio.wait_for(relay, 60)
    await whole(brokers, TRANSACTIONS)  # without whom no relay takes over
    async with relaying(careless) as relay:
        with pytest.raises(LogMismatchError, match="was seen to reach"):
            await asyncio.wait_for(relay, 60)
