"""Topics that exist are held against the settings: what is weaker is said, what would lose events is refused."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from confluent_kafka.cimpl import NewTopic
from structlog.testing import capture_logs
from support.kafka import records_of
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.domain import topic_of
from gatelog.core.errors import TopicError
from gatelog.core.identity import Identified
from gatelog.core.services import run_all
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.producer.relay.topics import Topics


def make_topic(settings: Identified, partitions: int, config: Mapping[str, str]) -> str:
    name = topic_of(settings.store, "Note")
    made = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config))
    admin = kafka.admin(settings.kafka_properties)  # collecting it would cancel its futures
    for future in admin.create_topics([made]).values():
        future.result(timeout=30)
    return name


def ensured(settings: Identified) -> list[tuple[str, str, str]]:
    """Let a relay's topics see it; return the differences that were logged."""
    topics = Topics(settings)
    with capture_logs() as logs:
        topics.ensure({"Note"})
        topics.ensure({"Note"})
        topics.check(topics.of_store())
    return [_difference(log) for log in logs if log["event"] == "topic.differs"]


def _difference(log: Mapping[str, Any]) -> tuple[str, str, str]:
    assert log["topic"] in log["fix"] or log["what"] in {"partitions", "replication factor"}
    return log["what"], log["found"], log["wanted"]


async def test_what_the_relay_made_is_as_configured(settings: Identified) -> None:
    strict = settings.model_copy(update={"topic_min_insync_replicas": 1, "topic_replication": 1})
    assert await asyncio.to_thread(ensured, strict) == []
    assert await asyncio.to_thread(ensured, strict) == []


@pytest.mark.parametrize(
    ("partitions", "config", "change", "differs"),
    [
        (3, {"retention.ms": "3600000"}, {}, ("retention.ms", "3600000", "-1")),
        (3, {"retention.ms": "-1", "retention.bytes": "999"}, {}, ("retention.bytes", "999", "-1")),
        (3, {"max.message.bytes": "2000"}, {}, ("max.message.bytes", "2000", "1122304")),
        (3, {}, {"topic_min_insync_replicas": 2}, ("min.insync.replicas", "1", "2")),
        (3, {}, {"topic_replication": 3}, ("replication factor", "1", "3")),
        (2, {}, {}, ("partitions", "2", "3")),
    ],
)
async def test_each_difference_is_said_once(
    settings: Identified,
    partitions: int,
    config: dict[str, str],
    change: dict[str, int],
    differs: tuple[str, str, str],
) -> None:
    wanted = settings.model_copy(update=change)
    whole = {"retention.ms": "-1", "max.message.bytes": str(settings.record_bytes_max), **config}
    await asyncio.to_thread(make_topic, settings, partitions, whole)
    assert await asyncio.to_thread(ensured, wanted) == [differs]


async def test_a_compacted_topic_is_refused_before_anything_is_published(
    settings: Identified, producer: Producer
) -> None:
    await asyncio.to_thread(make_topic, settings, 3, {"cleanup.policy": "compact"})
    await producer.append("Note-1", [Noted(text="x")], expected_version=0)
    with pytest.raises(TopicError, match=r"compacted.*--add-config cleanup\.policy=delete"):
        async with asyncio.timeout(60):
            await run_all(asyncio.Event(), Relay(settings))
    assert await asyncio.to_thread(records_of, settings) == []


async def test_a_weaker_topic_is_published_to(settings: Identified, producer: Producer) -> None:
    await asyncio.to_thread(make_topic, settings, 1, {"retention.ms": "3600000"})
    await producer.append("Note-1", [Noted(text="x")], expected_version=0)

    async def is_published() -> bool:
        return len(await asyncio.to_thread(records_of, settings)) == 1

    with capture_logs() as logs:
        async with running(Relay(settings)):
            await until(is_published, "it is published")
    assert {log["what"] for log in logs if log["event"] == "topic.differs"} >= {"partitions", "retention.ms"}
