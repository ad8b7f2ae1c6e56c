"""What is parked fits the parked topic, whatever its limit: less is said of the failure, or the payload is left."""

import asyncio
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public, but not in its __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic
from support.models import Noted
from support.parking import are_parked, ask_again, parked
from support.processes import environment, gatelog
from support.retention import forget, indexed
from support.running import running
from support.subscribing import append, consuming, holds
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.consumer_errors import ParkedWithoutPayloadError
from gatelog.core.errors import TopicError
from gatelog.core.identity import Identified
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.reader import Failures, Reader, Subscription
from gatelog.reader.subscriptions.parked import parked_topic_of
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.schemas import NewEvent, RecordedEvent

pytestmark = [pytest.mark.classic, pytest.mark.usefixtures("relay")]

LIMIT_BYTES = 6_000


async def topic_with_limit(settings: Identified, limit_bytes: int) -> None:
    """Make the parked topic as an earlier setting had it."""
    admin = kafka.admin(settings.kafka_properties)
    config = {"cleanup.policy": "compact", "max.message.bytes": str(limit_bytes)}
    made = NewTopic(parked_topic_of(settings, "s"), num_partitions=1, replication_factor=1, config=config)
    for future in admin.create_topics([made]).values():
        await asyncio.to_thread(future.result, 30)


async def lower_limit(settings: Identified, limit_bytes: int) -> None:
    admin = kafka.admin(settings.kafka_properties)
    entry = ConfigEntry("max.message.bytes", str(limit_bytes), incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, parked_topic_of(settings, "s"), incremental_configs=[entry])
    for future in admin.incremental_alter_configs([topic]).values():
        await asyncio.to_thread(future.result, 30)


class Handled:
    """A subscription that fails with a long text until it is cured."""

    def __init__(self, text: str = "cannot bear it", concurrency: int = 16) -> None:
        self.events: list[RecordedEvent[Noted]] = []
        self.is_cured = False
        failures = Failures(attempts_max=1, hold_stream=False)
        self.subscription = Subscription("s", failures=failures, concurrency=concurrency)

        @self.subscription.on(Noted)
        async def note(event: RecordedEvent[Noted]) -> None:
            if not self.is_cured:
                raise ValueError(text)
            self.events.append(event)


async def test_what_is_said_of_a_failure_is_bounded_and_can_be_written(
    settings: Identified, producer: Producer
) -> None:
    """In the parked topic and in the logs, which go to a stream that takes no half of a character."""
    await append(producer, "Note-1", "text")
    seen = Handled("first words " + "\ud800" * 6_000_000 + " last words\x00\x1b[2J")
    said = StringIO()
    strict = type("Strict", (StringIO,), {"write": lambda _, text: said.write(text.encode().decode())})()
    with redirect_stdout(strict), redirect_stderr(strict):
        async with consuming(seen.subscription, settings):
            (event,) = await are_parked(settings, 1)
    assert event.reason.startswith("ValueError: first words \\ud800")
    assert event.reason.endswith("last words\x00\x1b[2J")
    assert len(event.reason) <= 2_000
    assert event.trace.startswith("Traceback")
    assert len(event.trace) <= 20_000
    assert "event.parked" in said.getvalue()
    assert len(said.getvalue()) < 40_000


async def test_a_topic_with_a_lower_limit_takes_what_fits(
    settings: Identified, producer: Producer, reader: Reader
) -> None:
    await topic_with_limit(settings, LIMIT_BYTES)
    await append(producer, "Note-1", "small", "x" * 4_500, "y" * LIMIT_BYTES)
    large_headers = NewEvent(Noted(text="small"), metadata={"note": "z" * LIMIT_BYTES})
    await producer.append("Note-2", [large_headers], expected_version=ANY)
    seen = Handled("words " * 20_000)
    async with consuming(seen.subscription, settings):
        found = await are_parked(settings, 4)
        by_place = {(event.stream, event.version): event for event in found}
        small, middle, large = (by_place["Note-1", version] for version in (1, 2, 3))
        assert not small.is_reference
        assert not middle.is_reference
        assert middle.value.endswith(b"x" * 4_500)
        assert "characters cut" in middle.reason
        assert large.is_reference
        assert by_place["Note-2", 1].is_reference, "its headers do not fit"
        assert (large.reason.startswith("ValueError: words"), large.attempts) == (True, 1)
        seen.is_cured = True
        await asyncio.to_thread(ask_again, settings)
        await holds(lambda: len(seen.events) == 4, "all are replayed")
        await are_parked(settings, 0)
    expected = {event.id: event for stream in ("Note-1", "Note-2") async for event in reader.stream(stream)}
    assert {event.id: (event.data, event.metadata, event.recorded_at) for event in seen.events} == {
        each.id: (each.data, each.metadata, each.recorded_at) for each in expected.values()
    }


async def test_records_that_fit_apart_and_not_together_are_all_parked_whole(
    settings: Identified, producer: Producer
) -> None:
    """What is written together is refused together."""
    await topic_with_limit(settings, LIMIT_BYTES)
    for number in range(40):
        await append(producer, f"Note-{number}", "x" * 2_000)
    seen = Handled(concurrency=40)
    async with consuming(seen.subscription, settings):
        found = await are_parked(settings, 40)
    assert not any(event.is_reference for event in found)


async def test_a_topic_that_takes_nothing_ends_it_by_name(settings: Identified, producer: Producer) -> None:
    await topic_with_limit(settings, 100)
    await append(producer, "Note-1", "text")
    async with asyncio.timeout(60):
        with pytest.raises(TopicError, match=r"raise its max\.message\.bytes"):
            await Handled().subscription.run(asyncio.Event(), settings)


async def test_more_than_the_client_holds_is_asked_for_at_once(settings: Identified, producer: Producer) -> None:
    for number in range(40):
        await append(producer, f"Note-{number}", "text")
    seen = Handled()
    async with consuming(seen.subscription, settings):
        await are_parked(settings, 40)
        seen.is_cured = True
        narrow = settings.model_copy(update={"kafka": {**settings.kafka, "queue.buffering.max.messages": "10"}})
        await asyncio.to_thread(ask_again, narrow)
        await holds(lambda: len(seen.events) == 40, "all are replayed")


async def test_a_limit_that_was_lowered_later_does_not_end_the_replay_nor_its_failure(
    settings: Identified, producer: Producer
) -> None:
    await append(producer, "Note-1", "x" * 9_000)
    seen = Handled()
    async with consuming(seen.subscription, settings):
        (event,) = await are_parked(settings, 1)
        assert not event.is_reference
        await lower_limit(settings, LIMIT_BYTES)
        await asyncio.to_thread(ask_again, settings)

        async def has_failed_again() -> bool:
            (event,) = await asyncio.to_thread(parked, settings)
            return event.attempts == 2

        await until(has_failed_again, "the replay has failed")
        (event,) = await asyncio.to_thread(parked, settings)
        assert event.is_reference
        seen.is_cured = True
        await asyncio.to_thread(ask_again, settings)
        await holds(lambda: len(seen.events) == 1, "it is replayed")


async def test_an_event_that_kafka_has_forgotten_is_shown_and_replayed_from_the_index(
    settings: Identified, producer: Producer, reader: Reader, tmp_path: Path
) -> None:
    await topic_with_limit(settings, LIMIT_BYTES)
    seen = Handled()
    async with running(Indexer(settings)):
        await append(producer, "Note-1", "x" * 9_000)
        await indexed(reader, 1)
        async with consuming(seen.subscription, settings):
            (event,) = await are_parked(settings, 1)
        await forget(settings)
    asked = ["parked", "show", "s", event.event_id, "--json"]
    shown = await asyncio.to_thread(gatelog, asked, environment(settings), tmp_path)
    assert json.loads(shown.stdout)["data"] == {"text": "x" * 9_000}, shown.stderr
    seen.is_cured = True
    await asyncio.to_thread(ask_again, settings)
    async with consuming(seen.subscription, settings):
        await holds(lambda: len(seen.events) == 1, "it is replayed")
    assert seen.events[0].data.text == "x" * 9_000


async def test_what_its_stream_does_not_hold_stays_parked_and_says_so(
    settings: Identified, producer: Producer
) -> None:
    await topic_with_limit(settings, LIMIT_BYTES)
    await append(producer, "Note-1", "x" * 9_000)
    seen = Handled()

    def ask_for_another() -> None:
        with ParkedTopic(settings, "s") as topic:
            (event,) = topic.all()
            headers = tuple((k, b"9" if k == "ce_streamversion" else v) for k, v in event.headers)
            topic.write([(event.event_id, replace(event, headers=headers).asked_again())])

    async def has_failed_again() -> bool:
        (event,) = await asyncio.to_thread(parked, settings)
        return event.attempts == 2

    async with consuming(seen.subscription, settings):
        await are_parked(settings, 1)
        seen.is_cured = True
        await asyncio.to_thread(ask_for_another)
        await until(has_failed_again, "the replay has failed")
    (event,) = await asyncio.to_thread(parked, settings)
    assert event.reason.startswith(ParkedWithoutPayloadError.__name__)
    assert "version 9 is not there" in event.reason
    assert seen.events == []
