"""Total order and exactly-once projections beside the bare client; a part of the suite ``subscriptions``."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Final

import asyncpg
from bench.append import PAYLOAD, Measured
from bench.harness import Result, alternate, new_store
from bench.processes import gatelog
from bench.relay import published
from confluent_kafka import Consumer, TopicPartition

from gatelog.core.domain import topic_of
from gatelog.core.settings import Settings
from gatelog.producer import HistoricEvent, Producer
from gatelog.reader import Projection
from gatelog.reader.subscriptions.following import total_order
from gatelog.schemas import NewEvent, RecordedEvent

EVENTS: Final = 300_000
CATEGORIES: Final = ("Order", "Bill", "Parcel")
PARTITIONS: Final = 8  # of each topic
BATCH: Final = 5_000

Rows = list[tuple[int, str, int]]


async def filled(settings: Settings) -> Settings:
    """Return a store with ``EVENTS`` in three topics, published, with whole streams one after the other."""
    store = await new_store(settings.model_copy(update={"topic_partitions": PARTITIONS}))
    async with Producer.connect(store) as producer:
        await producer.load(
            HistoricEvent(f"{CATEGORIES[stream % 3]}-{stream}", version, NewEvent(Measured(text=PAYLOAD)))
            for stream in range(EVENTS // 10)
            for version in range(1, 11)
        )
    with gatelog(store, "relay"):
        await published(store, EVENTS)
    return store


def bare_consumer(settings: Settings) -> Consumer:
    """Return a consumer of all of the store's partitions, from the beginning."""
    own = {"group.id": secrets.token_hex(6), "isolation.level": "read_committed", "enable.auto.commit": False}
    consumer = Consumer({**settings.kafka_properties, **own})
    topics = [topic_of(settings.store, category) for category in CATEGORIES]
    consumer.assign([TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)])
    return consumer


def bare(settings: Settings) -> float:
    """Events a second from the first batch on, headers as a dict and the value looked at; in no order."""
    consumer = bare_consumer(settings)
    seen, first, begun = 0, 0, 0.0
    while seen < EVENTS:
        for message in consumer.consume(1_000, timeout=1):
            dict(message.headers() or ())
            message.value()
            seen += 1
        if not first and seen:
            first, begun = seen, time.perf_counter()
    rate = (EVENTS - first) / (time.perf_counter() - begun)
    consumer.close()
    return rate


async def ordered(settings: Settings, categories: Sequence[str] | None) -> float:
    """The same in total order."""
    seen, first, begun = 0, 0, 0.0
    async with total_order(settings, categories=categories) as order:
        async for batch in order.batches(asyncio.Event()):
            seen += len(batch.events)
            if not first and seen:
                first, begun = seen, time.perf_counter()
            if seen >= EVENTS:
                break
        return (EVENTS - first) / (time.perf_counter() - begun)


async def bare_projection(settings: Settings) -> float:
    """What one would write by hand: consume, COPY, and one row that says where it stands, in one transaction."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(
        "DROP TABLE IF EXISTS bare_seen, bare_offsets; CREATE TABLE bare_seen (position bigint, stream text, "
        "version bigint); CREATE TABLE bare_offsets (one int PRIMARY KEY, events bigint); "
        "INSERT INTO bare_offsets VALUES (1, 0)"
    )
    consumer = bare_consumer(settings)
    seen, first, begun = 0, 0, 0.0
    while seen < EVENTS:
        rows: Rows = []
        for message in await asyncio.to_thread(consumer.consume, BATCH, 0.1):
            headers = dict(message.headers() or ())
            position, version, stream = headers["ce_position"], headers["ce_streamversion"], headers["ce_subject"]
            assert isinstance(position, bytes)
            assert isinstance(version, bytes)
            assert isinstance(stream, bytes)
            rows.append((int(position), stream.decode(), int(version)))
        seen += len(rows)
        async with connection.transaction():
            await connection.copy_records_to_table("bare_seen", records=rows)
            await connection.execute("UPDATE bare_offsets SET events = $1", seen)
        if not first and seen:
            first, begun = seen, time.perf_counter()
    rate = (EVENTS - first) / (time.perf_counter() - begun)
    consumer.close()
    await connection.close()
    return rate


async def projected(settings: Settings) -> float:
    """The same as a projection of one member."""
    name = f"p{secrets.token_hex(4)}"
    projection = Projection(name, categories=CATEGORIES, schema=name)
    seen, first, begun, rate = 0, 0, 0.0, 0.0
    stop = asyncio.Event()

    @projection.set_up
    async def tables(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await connection.execute("CREATE TABLE seen (position bigint, stream text, version bigint)")

    @projection.batch
    async def keep(connection: "asyncpg.Connection[asyncpg.Record]", events: Sequence[RecordedEvent]) -> None:
        nonlocal seen, first, begun, rate
        rows = [(event.position, event.stream, event.version) for event in events]
        await connection.copy_records_to_table("seen", records=rows)
        seen += len(rows)
        if not first:
            first, begun = seen, time.perf_counter()
        elif seen >= EVENTS:
            rate = (EVENTS - first) / (time.perf_counter() - begun)
            stop.set()

    await projection.prepare(settings)
    await projection.run(stop, settings)
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"DROP SCHEMA {name} CASCADE")
    await connection.close()
    return rate


async def measure(settings: Settings) -> list[Result]:
    """Run this part of the suite."""
    store = await filled(settings)

    async def in_any_order() -> float:
        return await asyncio.to_thread(bare, store)

    await in_any_order()  # the broker has its pages in memory then
    whole, some, plain = await alternate(
        lambda: ordered(store, None), lambda: ordered(store, CATEGORIES), in_any_order
    )
    once, by_hand = await alternate(lambda: projected(store), lambda: bare_projection(store))
    baseline = "bare consume, headers parsed"
    return [
        Result("total order vs bare consume", whole, "ev/s", baseline, plain, 0.4),
        Result("total order, by category", some, "ev/s", baseline, plain, None),
        Result("exactly-once vs bare", once, "ev/s", "bare consume, COPY, one row a batch", by_hand, 0.6),
    ]
