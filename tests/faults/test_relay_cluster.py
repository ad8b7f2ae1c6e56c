"""A cluster of three brokers, of which one or two are down: the relay pauses if it must, and goes on by itself."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from support.cluster import BROKERS, TRANSACTIONS, Cluster, cluster, whole
from support.models import Noted
from support.processes import environment, gatelog
from support.subscribing import consuming
from support.trial import Row, busy, judge, relay, terminate
from support.waiting import until

from gatelog.core import tail
from gatelog.core.domain import topic_of
from gatelog.core.errors import KafkaUnavailableError
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Subscription
from gatelog.schemas.envelope import RecordedEvent

FROZEN_MAX_S = 30.0  # librdkafka by itself takes a minute; we take 15 s where nothing else is at work


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "kafka") as started:
        yield started


@pytest.fixture
async def replicated(settings: Settings, brokers: Cluster) -> Settings:
    """Settings of a store whose topics survive one broker; all three run when the test begins."""
    await whole(brokers)
    return settings.model_copy(
        update={
            "kafka": {"bootstrap.servers": brokers.servers},
            "topic_replication": 3,
            "topic_min_insync_replicas": 2,
        }
    )


async def test_a_broker_dies_and_its_partitions_get_other_leaders(
    replicated: Settings, producer: Producer, brokers: Cluster, chance: random.Random, long: bool
) -> None:
    """One of three is down, and nothing waits for it."""
    row = Row(replicated)
    topic = topic_of(replicated.store, "Note")
    async with busy(replicated, producer) as clients:
        with relay(replicated) as process:
            await row.moves(50)
            leader = await asyncio.to_thread(brokers.leader_of, topic)
            for victim in chance.sample(BROKERS, 3) * 10 if long else [leader]:
                await whole(brokers, topic, TRANSACTIONS)
                brokers.kill(victim)
                await row.moves(300)
            assert process.exitcode is None, "it was to go on by itself"
    await judge(replicated, clients)


async def test_the_coordinator_of_transactions_moves(
    replicated: Settings, producer: Producer, brokers: Cluster, long: bool
) -> None:
    """Its broker is stopped in order, or killed: a new coordinator takes its transactions over."""
    row = Row(replicated)
    async with busy(replicated, producer) as clients:
        with relay(replicated) as process:
            await row.moves(50)
            for end in [brokers.stop, brokers.kill] * 10 if long else [brokers.stop]:
                await whole(brokers, topic_of(replicated.store, "Note"), TRANSACTIONS)
                coordinator = await asyncio.to_thread(brokers.leader_of, TRANSACTIONS)
                await asyncio.to_thread(end, coordinator)
                await row.moves(300)
                assert await asyncio.to_thread(brokers.leader_of, TRANSACTIONS) != coordinator
            assert process.exitcode is None, "it was to go on by itself"
    await judge(replicated, clients)


async def test_the_coordinator_of_transactions_freezes(
    replicated: Settings, producer: Producer, brokers: Cluster, long: bool
) -> None:
    """It is there, and answers nothing: that is noticed by deadlines, and the others are asked."""
    row = Row(replicated)
    async with busy(replicated, producer) as clients:
        with relay(replicated) as process:
            await row.moves(50)
            for _ in range(10 if long else 1):
                await whole(brokers, topic_of(replicated.store, "Note"), TRANSACTIONS)
                coordinator = await asyncio.to_thread(brokers.leader_of, TRANSACTIONS)
                brokers.freeze(coordinator)
                try:
                    asked = {topic_of(replicated.store, "Note"): 3, TRANSACTIONS: 1}
                    ends = await asyncio.to_thread(tail.ends_of, replicated.kafka_properties, asked)
                    assert min(min(each) for each in ends.values()) >= 0, "no answer was taken for one"
                    await row.moves(300, timeout_s=FROZEN_MAX_S)
                finally:
                    brokers.thaw(coordinator)
            assert process.exitcode is None, "it was to go on by itself"
    await judge(replicated, clients)


async def test_two_of_three_brokers_are_down(
    replicated: Settings, producer: Producer, brokers: Cluster, chance: random.Random, long: bool
) -> None:
    """One replica is not enough: Postgres takes nothing for published that only one broker holds."""
    row = Row(replicated)
    topic = topic_of(replicated.store, "Note")
    async with busy(replicated, producer) as clients:
        with relay(replicated) as process:
            await row.moves(50)
            for _ in range(10 if long else 1):
                await whole(brokers, topic, TRANSACTIONS)
                victims = chance.sample(BROKERS, 2)
                brokers.kill(*victims)
                await alone(brokers, topic)
                paused_at = await row.position()
                done = await producer.append("Note-paused", [Noted(text="x")], expected_version=ANY)
                clients.acknowledged.append((0.0, 1e12, str(done.event_ids[0])))  # when, does not matter
                await asyncio.sleep(90 if long else 4)  # the outage's length is the fault
                assert await row.position() == paused_at, "it was to pause"
                brokers.start(*victims)
                await row.moves(300)
            assert process.exitcode is None, "it was to go on by itself"
    await judge(replicated, clients)


async def test_partitions_have_no_leader(
    replicated: Settings, producer: Producer, brokers: Cluster, long: bool, tmp_path: Path
) -> None:
    """The one broker that is up lacks what the others hold: a relay that starts then finds nothing to ask.

    A subscription waits, and `gatelog status` says so.
    """
    row = Row(replicated)
    topic = topic_of(replicated.store, "Note")
    watching = Subscription("watch")
    watching.on(Noted)(ignored)
    async with consuming(watching, replicated), busy(replicated, producer) as clients:
        with relay(replicated) as process:
            await row.moves(50)
            await whole(brokers, topic, TRANSACTIONS)
            behind, *others = BROKERS
            brokers.kill(behind)
            await alone(brokers, topic)
            await row.moves(100)
            brokers.kill(*others)
            brokers.start(behind)
            with relay(replicated) as late:
                await leaderless(brokers, topic)
                asking = asyncio.to_thread(tail.ends_of, replicated.kafka_properties, {topic: 3})
                status, problem = await asyncio.gather(
                    asyncio.to_thread(gatelog, ["status"], environment(replicated), tmp_path),
                    asking,
                    return_exceptions=True,
                )
                assert isinstance(problem, KafkaUnavailableError)
                assert not isinstance(status, BaseException)
                assert (status.returncode, "Traceback" in status.stderr) == (0, False), status.stderr
                assert f"no broker leads topic '{topic}' partition " in status.stdout
                assert "position" in status.stdout
                epoch = await row.epoch()
                await terminate(replicated)  # so that one of them starts anew, and the other when that has given up
                await row.taken_over_since(epoch + 1 if long else epoch)
                brokers.start(*others)
                await row.moves(300)
                assert (process.exitcode, late.exitcode) == (None, None), "they were to go on by themselves"
    await judge(replicated, clients)


async def ignored(event: RecordedEvent[Noted]) -> None:
    """Handle an event."""


async def leaderless(brokers: Cluster, topic: str) -> None:
    async def is_leaderless() -> bool:
        try:
            return await asyncio.to_thread(brokers.leader_of, topic) == -1
        except (KafkaException, KeyError):  # nobody answers yet
            return False

    await until(is_leaderless, "nobody leads the partition")


async def alone(brokers: Cluster, topic: str) -> None:
    """Wait until the controller has given up the brokers that died: the last one is below the minimum in sync."""

    async def is_alone() -> bool:
        return await asyncio.to_thread(brokers.in_sync_of, topic) == brokers.running

    await until(is_alone, "one replica is left in sync")
