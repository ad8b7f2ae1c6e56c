"""When Postgres and Kafka disagree, or Kafka refuses: the relay names it and changes nothing."""

import asyncio
import gc
import threading
from functools import partial

import asyncpg
import pytest
from support.changes import alter
from support.kafka import records_of
from support.models import Noted
from support.running import running
from support.trial import Row
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.errors import (
    KafkaUnavailableError,
    LogMismatchError,
    PostgresUnavailableError,
    PublishRefusedError,
    SettingsError,
    StoreNotInitialisedError,
    TopicError,
)
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay, leadership, publisher, topics
from gatelog.producer.relay.ticks import Tick, Ticks
from gatelog.reader import Reader


async def append(producer: Producer, *texts: str) -> None:
    for text in texts:
        await producer.append("Note-1", [Noted(text=text)], expected_version=ANY)


async def published(settings: Settings, position: int) -> None:
    async with Reader.connect(settings) as reader, running(Relay(settings), Indexer(settings)):

        async def is_indexed() -> bool:
            return await reader.frontier() >= position

        await until(is_indexed, f"position {position} is indexed")


async def refused(settings: Settings) -> None:
    """Run a relay that is expected to refuse."""
    async with asyncio.timeout(60):
        await run_all(asyncio.Event(), Relay(settings))


def set_record_bytes_max(settings: Settings, bytes_max: int) -> None:
    alter(settings, "max.message.bytes", str(bytes_max))


def delete_topic(settings: Settings) -> None:
    admin = kafka.admin(settings.kafka_properties)
    for future in admin.delete_topics([f"{settings.store}.Note"]).values():
        future.result(timeout=30)


async def test_a_database_older_than_kafka_is_refused(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """As after a restore from a backup: Kafka holds positions that Postgres has not given."""
    await append(producer, "a")
    await published(settings, 1)
    backup = f"CREATE TABLE {settings.store}.backup AS SELECT * FROM {settings.store}.relay_log"
    await connection.execute(backup)
    await append(producer, "b", "c")
    await published(settings, 3)
    await connection.execute(
        f"TRUNCATE {settings.store}.relay_log; "
        f"INSERT INTO {settings.store}.relay_log OVERRIDING SYSTEM VALUE SELECT * FROM {settings.store}.backup; "
        f"UPDATE {settings.store}.relay_leader SET checked_position = 0, checked_offsets = '{{}}'"
    )
    with pytest.raises(LogMismatchError, match="Kafka holds positions up to 3"):
        await refused(settings)
    assert len(await asyncio.to_thread(records_of, settings)) == 3


async def test_a_topic_that_was_deleted_is_named(settings: Settings, producer: Producer) -> None:
    await append(producer, "a", "b")
    await published(settings, 2)
    await asyncio.to_thread(delete_topic, settings)
    with pytest.raises(LogMismatchError, match=rf"{settings.store}\.Note.*truncated, deleted or restored"):
        await refused(settings)


async def test_an_event_that_kafka_refuses_is_named_and_nothing_slips_past_it(
    settings: Settings, producer: Producer
) -> None:
    await append(producer, "small")
    await published(settings, 1)
    await asyncio.to_thread(set_record_bytes_max, settings, 2_000)
    await append(producer, "before", "x" * 5_000, "after")
    with pytest.raises(PublishRefusedError) as named:
        await refused(settings)
    assert (named.value.stream, named.value.version) == ("Note-1", 3)
    assert len(await asyncio.to_thread(records_of, settings)) == 1, "the whole tick was aborted"
    await asyncio.to_thread(set_record_bytes_max, settings, 1_000_000)
    await published(settings, 4)
    positions = [record.position for record in await asyncio.to_thread(records_of, settings)]
    assert positions == [1, 2, 3, 4]


async def test_a_topic_that_cannot_be_made_is_named(settings: Settings, producer: Producer) -> None:
    await append(producer, "a")
    with pytest.raises(TopicError, match=rf"{settings.store}\.Note.*[Rr]eplication"):
        await refused(settings.model_copy(update={"topic_replication": 7}))


async def test_brokers_that_allow_shorter_transactions_are_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "TRANSACTION_TIMEOUT_MS", 15 * 60 * 1000 + 1)  # a broker's default, and more
    with pytest.raises(SettingsError, match=r"transaction\.max\.timeout\.ms = 900000, but .* 900001"):
        await refused(settings)


async def test_services_refuse_a_store_without_tables(bare_settings: Settings) -> None:
    for service in (Relay(bare_settings), Indexer(bare_settings)):
        with pytest.raises(StoreNotInitialisedError, match="gatelog init"):
            async with asyncio.timeout(30):
                await run_all(asyncio.Event(), service)


async def test_a_category_only_appears_in_kafka_when_it_has_events(settings: Settings, producer: Producer) -> None:
    await append(producer, "a")
    admin = kafka.admin(settings.kafka_properties)

    async def topics() -> set[str]:
        found = await asyncio.to_thread(partial(admin.list_topics, timeout=20))
        return {name for name in found.topics if name.startswith(f"{settings.store}.")}

    assert await topics() == set()
    await published(settings, 1)
    assert await topics() == {f"{settings.store}.Note"}


async def test_what_fails_beside_a_failure_is_no_traceback(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay's session ends while Kafka is asked where it ends; then Kafka does not answer that either."""
    asked, answer, reported = threading.Event(), threading.Event(), list[str]()
    loop, due = asyncio.get_running_loop(), Ticks.next

    def unanswered(*_: object) -> None:
        asked.set()
        answer.wait(30)
        raise KafkaUnavailableError("no answer")

    async def lost(ticks: Ticks) -> Tick | None:
        if asked.is_set() and not answer.is_set():
            loop.call_soon(answer.set)
            raise PostgresUnavailableError("gone")
        return await due(ticks)

    monkeypatch.setattr(leadership, "CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(Ticks, "next", lost)
    monkeypatch.setattr(topics.Topics, "compared", unanswered)
    loop.set_exception_handler(lambda _, context: reported.append(context["message"]))
    async with running(Relay(settings)):
        await Row(settings).taken_over_since(1)
    gc.collect()
    assert reported == []
