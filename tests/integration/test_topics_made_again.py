"""Topics that are deleted and made again: every reader goes on behind what it has handled, and misses nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.cimpl import NewTopic
from support.kafka import Seen, records_of
from support.losses import lose_topic
from support.projections import fill, keeping, schema_of
from support.reconciling import pipeline, publish, refused, republish
from support.subscribing import consuming
from support.waiting import until

from gatelog.core import asking, kafka, postgres, tail
from gatelog.core.domain import topic_of
from gatelog.core.errors import LogMismatchError
from gatelog.core.settings import Settings
from gatelog.indexer import topics
from gatelog.producer import Producer
from gatelog.reader import Projection, Subscription
from gatelog.schemas import RecordedEvent

Kind: TypeAlias = Literal["partition", "total", "consumer", "classic"]
Event: TypeAlias = tuple[int, str, int]  # position, stream, version
of_all_kinds = pytest.mark.parametrize("kind", ["partition", "total", "consumer", "classic"])


class Handled:
    """Runs a reader of one kind, and says what it has handled."""

    def __init__(self, kind: Kind, settings: Settings, rows: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._rows = rows
        self._seen: list[Event] = []
        self._reader: Projection | Subscription
        if kind in {"partition", "total"}:
            self._settings = settings
            self._reader = keeping("kept", settings, order=kind)
        else:
            self._settings = settings.model_copy(update={"subscription_protocol": kind})
            self._reader = Subscription("kept")
            self._reader.on()(self._note)

    async def _note(self, event: RecordedEvent) -> None:
        assert event.position is not None
        self._seen.append((event.position, event.stream, event.version))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if isinstance(self._reader, Projection):
            await self._reader.prepare(self._settings)
        async with consuming(self._reader, self._settings):
            yield

    async def events(self) -> list[Event]:
        if isinstance(self._reader, Subscription):
            return list(self._seen)
        query = f'SELECT position, stream, version FROM "{schema_of("kept", self._settings)}".seen ORDER BY nth'
        return [tuple(row) for row in await self._rows.fetch(query)]

    async def has(self, events: int) -> None:
        async def is_there() -> bool:
            return len({position for position, _, _ in await self.events()}) >= events

        await until(is_there, f"{events} events are handled")

    async def judge(self, upto: int, *, twice: bool = False) -> None:
        """Everything up to a position, in order within each stream; once, or, where ``twice``, at least once."""
        await self.has(upto)
        found = await self.events()
        if twice:
            found = list(dict.fromkeys(found))
        assert sorted(position for position, _, _ in found) == list(range(1, upto + 1)), "missing, or twice"
        streams: dict[str, list[int]] = {}
        for _, stream, version in found:
            streams.setdefault(stream, []).append(version)
        assert all(versions == list(range(1, len(versions) + 1)) for versions in streams.values())


@pytest.fixture
async def rows(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(settings.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def one_partition(settings: Settings) -> Settings:
    """Of a topic, so that offsets are as the test says."""
    return settings.model_copy(update={"topic_partitions": 1})


async def make_topic(settings: Settings, category: str = "Note") -> None:
    """Make a topic as somebody does by hand: empty, and of the name that was there before."""
    admin, name = kafka.admin(settings.kafka_properties), topic_of(settings.store, category)
    made = NewTopic(name, num_partitions=settings.topic_partitions, replication_factor=1)
    await asyncio.to_thread(admin.create_topics([made])[name].result, 30)

    async def is_there() -> bool:
        return name in await asyncio.to_thread(kafka.partitions_of, kafka.admin(settings.kafka_properties), {})

    await until(is_there, f"{name} is there")


def write(settings: Settings, records: Sequence[Seen]) -> None:
    """Write records as they were."""
    producer = KafkaProducer(kafka.client_properties(settings.kafka_properties))
    for record in records:
        headers: list[tuple[str, str | bytes | None]] = [(n, text.encode()) for n, text in record.headers.items()]
        producer.produce(record.topic, record.value, record.key, record.partition, headers=headers)
    assert producer.flush(30) == 0


async def make_again(settings: Settings, records: Sequence[Seen]) -> None:
    await lose_topic(settings, "Note")
    await make_topic(settings)
    await asyncio.to_thread(write, settings, records)


async def cut_to_sixty(settings: Settings) -> list[Seen]:
    """Publish 200 events, and have their topic made again with the first 60; return the records of all."""
    async with Producer.connect(settings) as producer:
        await fill(producer, 200, ["Note"])
    await publish(settings, 200)
    records = await asyncio.to_thread(records_of, settings)
    await make_again(settings, records[:60])
    return records


async def bring_together(settings: Settings) -> None:
    """Tell the indexer to go on at the ends of the topics that are there: it has what is before."""
    ends = await asyncio.to_thread(
        tail.stands_of, settings.kafka_properties, {topic_of(settings.store, "Note"): settings.topic_partitions}
    )
    ids = await asyncio.to_thread(asking.ids, settings.kafka_properties, ends)
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        await topics.accept(pool, settings.store, ids, ends)


@of_all_kinds
async def test_a_topic_that_is_filled_again_while_nobody_reads(
    kind: Kind, settings: Settings, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Kafka forgets with a topic where groups were in it, and offsets of others are of no use."""
    reader = Handled(kind, settings, rows)
    async with Producer.connect(settings) as producer:
        async with pipeline(settings):  # in many transactions, whose markers take offsets too
            await fill(producer, 60)
        await publish(settings, 60)
        async with reader.running():
            await reader.has(60)
        await lose_topic(settings, "Note")
        await republish(settings)
        await fill(producer, 60)
        await publish(settings, 120)
        async with reader.running():
            await reader.judge(120)


@of_all_kinds
async def test_a_topic_that_is_made_again_under_a_reader(
    kind: Kind, one_partition: Settings, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """At once, and with more in it than before: the next offset of the old one is in the middle of the new."""
    settings = one_partition
    reader = Handled(kind, settings, rows)
    records = await cut_to_sixty(settings)
    async with reader.running():
        await reader.has(60)
        await make_again(settings, records[60:])
        await reader.judge(200)


@of_all_kinds
async def test_a_topic_that_is_away_for_a_while_is_waited_for(
    kind: Kind, one_partition: Settings, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """By a reader that starts meanwhile, and by one that runs: nothing of another category goes out first."""
    settings = one_partition
    reader = Handled(kind, settings, rows)
    async with Producer.connect(settings) as producer:
        await fill(producer, 40, ["Note", "Bill"])
        await publish(settings, 40)
        async with reader.running():
            await reader.has(40)
        await lose_topic(settings, "Note")
        await fill(producer, 40, ["Note", "Bill"])
        async with reader.running():
            await republish(settings)
            await publish(settings, 80)
            await reader.has(80)
            await lose_topic(settings, "Note")
            await republish(settings)
            await fill(producer, 40, ["Note", "Bill"])
            await publish(settings, 120)
            # What was not committed when Kafka forgot the group's offsets comes again to a subscription.
            await reader.judge(120, twice=kind in {"consumer", "classic"})


@of_all_kinds
async def test_records_that_a_topic_lacks_come_from_the_index(
    kind: Kind, one_partition: Settings, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    settings = one_partition
    reader = Handled(kind, settings, rows)
    records = await cut_to_sixty(settings)
    async with reader.running():
        await reader.has(60)
    await make_again(settings, records[74:])
    await bring_together(settings)
    async with reader.running():
        await reader.judge(200)


@of_all_kinds
async def test_records_that_are_lost_in_the_middle_come_from_the_index(
    kind: Kind, one_partition: Settings, rows: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Brokers lose an end, and the relay writes on before anybody has noticed: the topic is the same."""
    settings = one_partition
    reader = Handled(kind, settings, rows)
    records = await cut_to_sixty(settings)
    await bring_together(settings)
    async with reader.running():
        await reader.has(60)
        await asyncio.to_thread(write, settings, records[74:])
        await bring_together(settings)
        await reader.judge(200)


async def test_a_relay_stops_for_a_topic_that_was_made_again(one_partition: Settings) -> None:
    """Even if it holds as much as before: what comes after it would stand behind something else."""
    settings = one_partition
    async with Producer.connect(settings) as producer:
        await fill(producer, 20, ["Note"])
    await publish(settings, 20)
    records = await asyncio.to_thread(records_of, settings)
    await make_again(settings, [*records, *records, *records])
    with pytest.raises(LogMismatchError, match="deleted and made again: its id was"):
        await refused(settings)
