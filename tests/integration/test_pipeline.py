"""From outbox to Kafka to index: every event once, in order, whatever happens on the way."""

import asyncio
import random
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from support.kafka import Seen, records_of
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.domain import topic_of
from gatelog.core.errors import InvalidEventError, InvalidInputError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Appended, HistoricEvent, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import NewEvent


async def append(producer: Producer, stream: str, text: str = "x") -> Appended:
    return await producer.append(stream, [Noted(text=text)], expected_version=ANY)


async def indexed_upto(reader: Reader, position: int) -> bool:
    return await reader.frontier() >= position


async def judge(settings: Settings, reader: Reader, events: int) -> list[Seen]:
    """Wait until all is indexed; then Kafka and index hold each event once, gapless, in stream order."""
    await until(partial(indexed_upto, reader, events), f"{events} events are indexed")
    records = await asyncio.to_thread(records_of, settings)
    assert sorted(record.position for record in records) == list(range(1, events + 1))
    assert len({record.event_id for record in records}) == events
    indexed = [event async for event in reader.all()]
    assert [event.position for event in indexed] == list(range(1, events + 1))
    assert {event.id for event in indexed} == {record.event_id for record in records}
    versions: dict[str, list[int]] = defaultdict(list)
    for event in indexed:
        versions[event.stream].append(event.version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values()), "position follows version"
    for partition in {(record.topic, record.partition) for record in records}:
        positions = [record.position for record in records if (record.topic, record.partition) == partition]
        assert positions == sorted(positions)
    return records


async def test_positions_are_gapless_and_follow_acknowledgement(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None
) -> None:
    """Callers that append one after the other, each awaiting its answer, and all of them at once."""

    async def caller(number: int) -> list[Appended]:
        return [await append(producer, f"Note{number % 3}-{(number + nth) % 7}") for nth in range(25)]

    answers = await asyncio.gather(*(caller(number) for number in range(20)))
    await judge(settings, reader, 500)
    for answered in answers:
        ids = [appended.event_ids[0] for appended in answered]
        positions = await reader.indexed(ids)
        assert positions == sorted(positions), "acknowledged before the next was sent"


async def test_a_record_is_keyed_by_its_stream(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None
) -> None:
    for number in range(30):
        await append(producer, f"Note-{number % 5}")
    records = await judge(settings, reader, 30)
    assert {record.topic for record in records} == {f"{settings.store}.Note"}
    partitions = {(record.key, record.partition) for record in records}
    assert len(partitions) == 5, "a stream stays in one partition"


async def test_a_transaction_left_open_delays_only_its_own_events(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    pipeline: None,
) -> None:
    stranger = await asyncpg.connect(settings.dsn)
    doing = stranger.transaction()
    await doing.start()
    await stranger.fetchval("SELECT pg_current_xact_id()")  # an xid, held for the whole test
    late = connection.transaction()
    await late.start()
    held = await producer.append("Note-late", [Noted(text="x")], expected_version=0, connection=connection)
    done = [await append(producer, f"Note-{number}") for number in range(30)]
    assert await reader.indexed([each.event_ids[0] for each in done]) == list(range(1, 31))
    await late.commit()
    assert await reader.indexed(held.event_ids) == [31]
    more = await append(producer, "Note-late")
    assert await reader.indexed(more.event_ids) == [32]
    await doing.rollback()
    await stranger.close()
    await judge(settings, reader, 32)


async def test_rollbacks_and_savepoints_leave_no_gap(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    pipeline: None,
) -> None:
    kept = 0
    for number in range(12):
        outer = connection.transaction()
        await outer.start()
        await producer.append(f"Note-{number}", [Noted(text="outer")], expected_version=0, connection=connection)
        inner = connection.transaction()
        await inner.start()
        await producer.append(f"Note-{number}", [Noted(text="inner")], expected_version=1, connection=connection)
        await (inner.rollback() if number % 2 else inner.commit())
        await (outer.rollback() if number % 3 == 0 else outer.commit())
        kept += 0 if number % 3 == 0 else 1 if number % 2 else 2
        await append(producer, "Note-between")
        kept += 1
    await judge(settings, reader, kept)


async def test_two_relays_and_two_indexers_that_come_and_go(
    settings: Settings, producer: Producer, reader: Reader
) -> None:
    chance = random.Random(3)
    sent = 0

    async def keep_appending(stop: asyncio.Event) -> None:
        nonlocal sent
        while not stop.is_set():
            await append(producer, f"Note{sent % 2}-{sent % 9}", str(sent))
            sent += 1

    stop = asyncio.Event()
    appending = asyncio.create_task(keep_appending(stop))
    async with running(Relay(settings), Indexer(settings), OutboxKeeper(settings)):
        for _ in range(3):
            async with running(Relay(settings), Indexer(settings)):
                await until(partial(indexed_upto, reader, sent + chance.randint(1, 50)), "the pipeline goes on")
        stop.set()
        await appending
    async with running(Relay(settings), Indexer(settings)):
        await judge(settings, reader, sent)


async def test_strange_records_are_reported_and_the_rest_goes_on(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    pipeline: None,
) -> None:
    """Somebody writes into the topic: rubbish, another store's record, copies of ours, and lies."""
    first = await append(producer, "Note-1")
    await reader.indexed(first.event_ids)
    (ours,) = await asyncio.to_thread(records_of, settings)
    lies = [
        {"ce_id": "11111111-1111-1111-1111-111111111111"},
        {"ce_position": "9", "ce_streamversion": "9"},
        {"ce_position": "first"},
        {"ce_subject": "no stream id"},
        {"ce_subject": "Note-\0"},
        {"ce_metadata": "{"},
    ]
    writer = KafkaProducer({"bootstrap.servers": settings.kafka_properties["bootstrap.servers"]})
    topic = topic_of(settings.store, "Note")
    for strange in (None, b"rubbish"):
        writer.produce(
            topic, key="x", value=strange, headers=[("ce_source", b"\xff"), ("a", None)], partition=ours.partition
        )
    writer.produce(topic, value=ours.value, headers={**ours.headers, "ce_source": "/gatelog/other"})
    for lie in [{}, *lies]:  # first a copy, as it is
        headers = [(name, value.encode()) for name, value in {**ours.headers, **lie}.items()]
        writer.produce(topic, key="Note-1", value=ours.value, headers=headers, partition=ours.partition)  # type: ignore[arg-type] # list is invariant
    writer.produce(topic, value=b"\x01" + ours.value, headers=[(n, v.encode()) for n, v in ours.headers.items()])
    writer.flush(20)
    more = [await append(producer, f"Note-{number}") for number in range(1, 12)]
    assert await reader.indexed([each.event_ids[0] for each in more]) == list(range(2, 13))
    events = [event async for event in reader.all()]
    assert [event.position for event in events] == list(range(1, 13))
    kept = await connection.fetchval(f"SELECT count(*) FROM {settings.store}.unreadable_records")
    assert kept == len(lies) + 1, "what claims to be ours is kept; what does not, and a copy, is only logged"


async def test_events_are_immutable_for_every_role(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    pipeline: None,
) -> None:
    await reader.indexed((await append(producer, "Note-1")).event_ids)
    for change in (
        "UPDATE {}.events SET stream = 'x'",
        "DELETE FROM {}.events",
        "TRUNCATE {}.events",
        "UPDATE {}.outbox SET stream = 'x'",
        "DELETE FROM {}.outbox",
        "DELETE FROM {}.outbox_0",
        "TRUNCATE {}.outbox",
        "TRUNCATE {}.outbox_0",
        "DELETE FROM {}.schemas",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="immutable"):
            await connection.execute(change.format(settings.store))


async def test_the_largest_legal_event_goes_the_whole_way(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None
) -> None:
    """And one that was recorded in the future, or before Kafka's time, does not stop those behind it."""
    text = "x" * (settings.event_bytes_max - 3)  # three bytes tell its length
    metadata = {"a": "x" * (settings.metadata_bytes_max - 8)}
    stream = "Note-" + "x" * 250
    large = await producer.append(stream, [NewEvent(Noted(text=text), metadata=metadata)], expected_version=0)
    too_large = NewEvent(Noted(text=""), metadata={"a": metadata["a"] + "x"})
    with pytest.raises(InvalidEventError, match="metadata has 65,537 bytes"):
        await producer.append(stream, [too_large], expected_version=ANY)
    history = [
        HistoricEvent("Note-then", version, NewEvent(Noted(text="x")), datetime(year, 1, 1, tzinfo=UTC))
        for version, year in enumerate((1900, 2900), 1)
    ]
    await producer.load(history)
    after = await append(producer, "Note-1")
    await reader.indexed([*large.event_ids, *after.event_ids])
    assert [event.recorded_at.year async for event in reader.stream("Note-then")] == [1900, 2900]


async def test_history_without_a_time_zone_is_refused(producer: Producer) -> None:
    with pytest.raises(InvalidInputError, match="no datetime with time zone"):
        await producer.load([HistoricEvent("Note-1", 1, Noted(text="x"), datetime(2026, 1, 1))])  # noqa: DTZ001 - the point
