"""Kafka dies, freezes, or throws the relay's producer out: the relay goes on by itself, and nothing is doubled."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from multiprocessing.context import ForkServerProcess

import pytest
from confluent_kafka import Producer as KafkaProducer
from support.broker import Broker, up
from support.models import Noted
from support.trial import Row, busy, frozen, judge, relay, terminate, wake
from support.waiting import until

from gatelog.core.domain import topic_of
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    """A Kafka that may be killed: the shared one has other users."""
    services = LocalServices(tmp_path_factory.mktemp("own") / "services")
    yield services
    services.destroy()


@pytest.fixture
async def away(settings: Identified, own_kafka: LocalServices) -> AsyncIterator[Identified]:
    """Settings with the Kafka that may be killed; it runs when the test begins."""
    servers = (await asyncio.to_thread(own_kafka.up, only="kafka")).kafka_bootstrap_servers
    yield settings.model_copy(update={"kafka": {"bootstrap.servers": servers}})
    await asyncio.to_thread(own_kafka.up, only="kafka")


def lives(process: ForkServerProcess) -> bool:
    return process.exitcode is None


async def test_a_broker_that_is_killed_under_load(
    away: Identified, producer: Producer, own_kafka: LocalServices, chance: random.Random, long: bool
) -> None:
    row = Row(away)
    async with busy(away, producer) as clients:
        with relay(away) as process:
            for _ in range(20 if long else 2):
                await row.moves(chance.randint(1, 200))
                await Broker(own_kafka).killed()
                await up(own_kafka)
            await row.moves(200)
            assert lives(process), "it was to go on by itself"
    await judge(away, clients)


async def test_kafka_is_away_for_a_while(
    away: Identified, producer: Producer, own_kafka: LocalServices, long: bool
) -> None:
    """In the long run for longer than a message, a commit and a Kafka transaction live."""
    row = Row(away)
    async with busy(away, producer) as clients:
        with relay(away) as process:
            await row.moves(50)
            await Broker(own_kafka).killed()
            acknowledged = len(clients.acknowledged)
            await asyncio.sleep(130 if long else 8)  # the outage's length is the fault
            assert len(clients.acknowledged) > acknowledged, "appends outlive Kafka"
            done = await producer.append("Note-read", [Noted(text="x")], expected_version=ANY)
            clients.acknowledged.append((0.0, 1e12, str(done.event_ids[0])))  # when, does not matter
            async with Reader.connect(away) as reader:
                assert [event.version async for event in reader.stream("Note-read")] == [1]
            await up(own_kafka)
            await row.moves(200)
            assert lives(process), "it was to go on by itself"
    await judge(away, clients)


async def test_a_commit_that_kafka_dies_of(
    away: Identified, producer: Producer, own_kafka: LocalServices, chance: random.Random, long: bool
) -> None:
    """The broker is killed before, while and after it commits."""
    row = Row(away)
    points = ("commit", "committing", "committed")
    async with busy(away, producer) as clients:
        for point in points * 10 if long else ("committing", chance.choice(["commit", "committed"])):
            broker = Broker(own_kafka)
            with relay(away, point, chance.randint(1, 10), signal.SIGKILL, broker.pid) as process:
                await broker.gone()
                await up(own_kafka)
                await row.moves(100)
                assert lives(process), "it was to go on by itself"
    await judge(away, clients)


async def test_a_commit_that_nobody_answers(
    away: Identified, producer: Producer, own_kafka: LocalServices, chance: random.Random, long: bool
) -> None:
    """The broker freezes before, while and after it commits, until the relay has given the producer up."""
    row = Row(away)
    async with busy(away, producer) as clients:
        for point in ("commit", "committing", "committed") * (10 if long else 1):
            broker = Broker(own_kafka)
            with relay(away, point, chance.randint(1, 10), signal.SIGSTOP, broker.pid) as process:
                try:
                    await row.taken_over_since(await row.epoch() - 1)
                    await broker.stopped()
                    await row.taken_over_since(await row.epoch())
                finally:
                    os.kill(broker.pid, signal.SIGCONT)
                await row.moves(100)
                assert lives(process), "it was to go on by itself"
    await judge(away, clients)


async def test_a_producer_that_is_thrown_out(
    away: Identified, producer: Producer, chance: random.Random, long: bool
) -> None:
    """Somebody else takes the transactional id, again and again; the next producer publishes the same tick."""
    row = Row(away)
    async with busy(away, producer) as clients:
        with relay(away) as process:
            for _ in range(100 if long else 5):
                await row.moves(chance.randint(1, 50))
                epoch = await row.epoch()
                await asyncio.to_thread(take_transactional_id, away)
                await row.taken_over_since(epoch)
            await row.moves(100)
            assert lives(process), "it was to go on by itself"
    await judge(away, clients)


def take_transactional_id(settings: Identified) -> None:
    KafkaProducer({**settings.kafka_properties, "transactional.id": settings.named("relay", 1)}).init_transactions(
        30.0
    )


async def test_a_committed_tick_is_found_behind_a_strangers_open_transaction(
    settings: Settings, producer: Producer
) -> None:
    """Such a transaction hides all that follows it in its partition from whoever reads committed records only."""
    row = Row(settings)
    async with busy(settings, producer) as clients:
        with relay(settings, "commit", 20, signal.SIGSTOP) as process:
            await frozen(process)
            stranger = await asyncio.to_thread(open_transaction, settings)
            await terminate(settings)  # so that the relay commits its tick, and cannot write that down
            wake(process)
            position, epoch = await row.position(), await row.epoch()

            async def has_decided() -> bool:
                return await row.position() > position or await row.epoch() > epoch + 1

            await until(has_decided, "a take-over ends, by publishing or by trying again")
            assert await row.position() == position, "it cannot know yet what was committed"
            await asyncio.to_thread(stranger.abort_transaction, 30.0)
            await row.moves(100)
            assert process.exitcode is None, "it was to go on by itself"
    await judge(settings, clients)


def open_transaction(settings: Settings) -> KafkaProducer:
    """Write into every partition of a topic in a transaction that stays open."""
    stranger = KafkaProducer({**settings.kafka_properties, "transactional.id": f"stranger-{settings.store}"})
    stranger.init_transactions(30.0)
    stranger.begin_transaction()
    for partition in range(settings.topic_partitions):
        stranger.produce(topic_of(settings.store, "Note"), b"not an event", b"key", partition)
    assert stranger.flush(30.0) == 0
    return stranger
