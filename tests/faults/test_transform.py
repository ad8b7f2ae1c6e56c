"""Transforms that are killed at every point of a transaction: each event's record is in Kafka once."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.cimpl import NewTopic
from support.crashing_transform import PARTITIONS, POINTS, out_of, produced, running
from support.models import Noted
from support.projections import fill

from gatelog.core import kafka
from gatelog.core.consumer_errors import ProjectionFailedError
from gatelog.core.errors import InvalidInputError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Outgoing, Transform
from gatelog.schemas import RecordedEvent


@pytest.fixture
async def topic(settings: Settings) -> Settings:
    """Settings with short timeouts; the topic that is written to exists. It is deleted with the store's."""
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.create_topics([NewTopic(out_of(settings), num_partitions=PARTITIONS)]).values():
        await asyncio.to_thread(future.result, 30)
    return settings.model_copy(update={"subscription_protocol": "classic", "subscription_session_timeout_s": 6.0})


async def test_killed_at_every_point(
    topic: Settings, producer: Producer, pipeline: None, chance: random.Random, long: bool
) -> None:
    events = 0
    for _ in range(60 if long else 1):
        for point in chance.sample(POINTS, len(POINTS)) if long else ["send_offsets_to_transaction", "committed"]:
            events += await fill(producer, 30, ["Note", "Bill"])
            with running(topic, point, chance.randint(2, 3)) as process:
                await asyncio.to_thread(process.join, 60)
                assert process.exitcode == -signal.SIGKILL, "it was to die at its point"
    with running(topic):
        seen = await asyncio.to_thread(produced, topic, events)
    assert set(seen.values()) == {1}
    assert len(seen) == events


async def test_a_function_that_fails_is_named_and_nothing_of_it_is_seen(
    topic: Settings, producer: Producer, pipeline: None
) -> None:
    await fill(producer, 10, ["Note"])
    is_broken = True
    transform = Transform("fragile", types=[Noted])
    stop = asyncio.Event()

    @transform.each
    async def fragile(event: RecordedEvent) -> Sequence[Outgoing]:
        assert isinstance(event.data, Noted)
        if event.data.text == "9":
            if is_broken:
                raise ZeroDivisionError
            stop.set()
        return [Outgoing(out_of(topic), b"x", str(event.id))]

    with pytest.raises(ProjectionFailedError, match="Note-2") as raised:
        await transform.run(stop, topic)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    is_broken = False
    async with asyncio.timeout(60):
        await transform.run(stop, topic)
    seen = await asyncio.to_thread(produced, topic, 10)
    assert (len(seen), set(seen.values())) == (10, {1})
    for returned, cause in (
        (Outgoing(out_of(topic), b"x" * 2_000_000), KafkaException),  # larger than the client sends
        (Outgoing(out_of(topic), 5), TypeError),  # type: ignore[arg-type] # the point
        ("a text", AttributeError),
    ):
        unfit = Transform(f"unfit {cause.__name__}", types=[Noted])
        unfit.each(_returning(returned))
        async with asyncio.timeout(60):
            with pytest.raises(ProjectionFailedError) as raised:
                await unfit.run(asyncio.Event(), topic)
        assert isinstance(raised.value.__cause__, cause)
    inside = Transform("inside", types=[Noted])

    @inside.each
    async def wrong(_event: RecordedEvent) -> Sequence[Outgoing]:
        return [Outgoing(f"{topic.store}.Note", b"x")]

    with pytest.raises(InvalidInputError, match="only the relay"):
        await inside.run(asyncio.Event(), topic)


def _returning(record: Any) -> Callable[[RecordedEvent], Awaitable[Sequence[Outgoing]]]:  # noqa: ANN401 - none of ours
    async def returning(_event: RecordedEvent) -> Sequence[Outgoing]:
        return [record]

    return returning
