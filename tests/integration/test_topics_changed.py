"""Topics that somebody changes while the relay runs: seen within seconds, and no stream is ever in two partitions."""

import asyncio

import asyncpg
import pytest
from structlog.testing import capture_logs
from support.changes import add_partitions, alter
from support.kafka import records_of
from support.losses import lose_topic
from support.models import Noted
from support.reconciling import republish
from support.running import running
from support.subscribing import published
from support.waiting import until

from gatelog.core.errors import TopicError
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay, leadership

STREAMS = 7


async def append(producer: Producer) -> None:
    for number in range(STREAMS):
        await producer.append(f"Note-{number}", [Noted(text="x")], expected_version=ANY)


async def refused(settings: Settings, match: str) -> None:
    with pytest.raises(TopicError, match=match):
        async with asyncio.timeout(60):
            await run_all(asyncio.Event(), Relay(settings))


async def test_partitions_are_added(
    settings: Settings,
    producer: Producer,
    connection: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The relay keeps to those that it knows, until it sees the others, and stops; the topic is made anew then."""
    quick = {**settings.kafka, "topic.metadata.refresh.interval.ms": "50"}  # a producer that sees at once
    busy = settings.model_copy(update={"kafka": quick})
    async with running(Indexer(settings)):
        async with running(Relay(busy)):
            await append(producer)
            await published(connection, settings, STREAMS)
            await asyncio.to_thread(add_partitions, settings, 8)
            for round_ in range(2, 12):
                await append(producer)
                await published(connection, settings, round_ * STREAMS)
        await append(producer)
        places = {(record.key, record.partition) for record in await asyncio.to_thread(records_of, settings)}
        assert len(places) == STREAMS
        await refused(settings, "8 partitions now, and had 3 when its events were published")
    await lose_topic(settings, "Note")
    await republish(settings)
    monkeypatch.setattr(leadership, "WATCH_INTERVAL_S", 0.0)
    noticed = asyncio.create_task(refused(settings, "9 partitions now, and had"))
    async with running(Indexer(settings)):
        await published(connection, settings, 12 * STREAMS)

        async def agree() -> bool:
            return (await verify(settings, lambda *_: None)).agree

        await until(agree, "all is well")
        await asyncio.to_thread(add_partitions, settings, 9)
        await noticed


async def test_its_configuration_is_changed(
    settings: Settings,
    producer: Producer,
    connection: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is weaker is said once; what loses events ends the relay."""
    monkeypatch.setattr(leadership, "WATCH_INTERVAL_S", 0.0)
    with capture_logs() as logs:
        relay = asyncio.create_task(refused(settings, r"compacted.*--add-config cleanup\.policy=delete"))
        await append(producer)
        await published(connection, settings, STREAMS)

        async def is_said() -> bool:
            return {log["what"] for log in logs if log["event"] == "topic.differs"} == {
                "retention.ms",
                "max.message.bytes",
            }

        await asyncio.to_thread(alter, settings, "retention.ms", "3600000")
        await asyncio.to_thread(alter, settings, "max.message.bytes", "2000")
        await until(is_said, "the relay says what is weaker")
        await asyncio.to_thread(alter, settings, "cleanup.policy", "compact")
        await relay
    assert len([log for log in logs if log["event"] == "topic.differs"]) == 2, "each is said once"
