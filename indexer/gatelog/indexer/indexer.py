"""The indexer service: consumes the store's topics and fills the index, exactly once.

The offsets are stored in the transaction that writes the rows, by compare-and-set: whatever the consumer group
believes, a record is written once, and an indexer that lost a partition without knowing writes nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from gatelog.core import asking, histories, kafka, logs, postgres, services, shards
from gatelog.core.domain import topic_pattern
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError, PostgresUnavailableError
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.telling import told
from gatelog.indexer import gaps, topics
from gatelog.indexer.batches import Batch, BatchReader, Place
from gatelog.indexer.forgeries import Gate
from gatelog.indexer.places import index_pools
from gatelog.indexer.writing import PACKAGE, PartitionLostError, Writer
from gatelog.schemas.codec import Codec
from gatelog.schemas.registries import registry_of
from gatelog.schemas.registry import Registry

POLL_S: Final = 0.25
RETRY_INTERVAL_S: Final = 1.0
TOPIC_CHECK_INTERVAL_S: Final = 5.0
TOPIC_REFRESH_MS: Final = 1_000  # how soon a new category's topic is seen
# Brokers allow no less. A member that is declared dead too early does no harm: it writes nothing (see writing).
SESSION_TIMEOUT_MS: Final = 6_000

_log = logs.logger("indexer")


class Indexer:
    """Fills the index, or one shard of it. Any number may run; they share the partitions as one consumer group."""

    name = "indexer"

    def __init__(self, settings: Settings, shard: int = 0) -> None:
        """Check the settings; nothing is opened yet. ``shard``: which of ``index_dsns``, counted from 0.

        Raises:
            SettingsError: Postgres or Kafka is not configured, or there is no such shard.
        """
        self._settings = settings
        self._shard = shard
        self._dsn = shards.dsn_of(settings, shard)
        self._properties = settings.kafka_properties

    async def run(self, stop: asyncio.Event) -> None:
        """Index until ``stop`` is set. What passes is waited out; what does not is raised.

        Raises:
            LogMismatchError: records that were not indexed yet are gone from Kafka.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
            IndexPlaceError: a database is not what the settings say.
            ForeignStoreError: a topic is another store's of the same name.
        """
        while not stop.is_set():
            try:
                await self._consume(stop)
            except (PostgresUnavailableError, KafkaUnavailableError, PartitionLostError, gaps.GapError) as error:
                _log.warning("indexer.interrupted", error=told(error), retry_in_s=RETRY_INTERVAL_S)
                await services.wait_any(RETRY_INTERVAL_S, stop)

    async def _consume(self, stop: asyncio.Event) -> None:
        settings = self._settings
        async with index_pools(settings, self._shard, "gatelog indexer", 3) as (own, gate, pool):
            registry = registry_of(settings, gate)
            with postgres.translated(settings.store, self._dsn):
                session = _Session(own, self._shard, pool, registry, Gate(settings, gate))
                try:
                    while not stop.is_set():
                        await session.run_once()
                finally:
                    await session.close()


class _Session:
    """One membership in the consumer group, and what it has in hand."""

    def __init__(self, settings: Identified, shard: int, pool: postgres.Pool, registry: Registry, gate: Gate) -> None:
        self._settings = settings
        self._gate = gate
        self._shard = shard
        self._properties = settings.kafka_properties
        self._pool = pool
        self._sql = queries(PACKAGE, "index.sql", settings.store)
        codec = Codec(registry, register=False, upcasts=False)
        owns = shards.owner_of(settings, shard)
        self._reader = BatchReader(settings, codec, with_json=settings.index_jsonb, owns=owns)
        self._writer = Writer(pool, settings.store)
        self._next: dict[Place, int] = {}  # where Postgres stands, or will when what is being written is
        self._writing: asyncio.Task[None] | None = None
        self._moving: asyncio.Task[None] | None = None  # the frontier, past what was written
        self._loop = asyncio.get_running_loop()
        own = kafka.client_properties(
            self._properties,
            group_id=settings.named("indexer") if owns is None else settings.named("indexer", shard),
            enable_auto_commit=False,
            auto_offset_reset="error",  # a missing offset is named, never jumped over
            isolation_level="read_committed",
            partition_assignment_strategy="range",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            topic_metadata_refresh_interval_ms=TOPIC_REFRESH_MS,
            fetch_wait_max_ms=50,
        )
        with kafka.legal(self._properties):
            self._consumer = Consumer(own)
        self._consumer.subscribe(
            [topic_pattern(settings.store)], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        self._watching = asyncio.create_task(self._watch_topics())

    async def close(self) -> None:
        await self._written()
        self._watching.cancel()
        await services.ended(self._watching, self._moving)
        await asyncio.to_thread(self._consumer.close)
        for task in (self._writing, self._moving):
            if task is not None:
                await task  # it may have failed

    async def run_once(self) -> int:
        """Index what has arrived; return the number of records.

        Postgres writes a batch while the next one is fetched and read. One is written after the other.
        """
        for task in (self._watching, self._moving):
            if task is not None and task.done():
                task.result()
        rows_max = self._settings.index_rows_max
        try:
            messages = await asyncio.to_thread(kafka.poll, self._consumer, self._properties, POLL_S, rows_max)
        except LogMismatchError:
            await self._written()
            await gaps.settle(self._settings, self._shard, self._next)  # if it is that, this tells what was lost
            raise
        batch = await self._reader.read(messages, self._next)
        await self._gate.sift(batch)  # while the batch before is being written
        if self._writing is not None and (messages or self._writing.done()):
            writing, self._writing = self._writing, None
            await writing
        if batch.upto:
            since = dict(self._next)
            self._next.update(batch.upto)
            self._writing = asyncio.create_task(self._write(batch, since))
        return len(messages)

    async def _write(self, batch: Batch, since: Mapping[Place, int]) -> None:
        """Write a batch. The frontier follows while the next one is on its way."""
        await self._writer.write(batch, since)
        if self._moving is not None:
            await self._moving
        self._moving = asyncio.create_task(self._writer.advance_frontier())

    async def _written(self) -> None:
        """Wait until nothing is being written; whether it failed is for ``run_once`` to find."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called in the polling thread: go on where Postgres says, not where the group believes."""
        self._settle()
        places = [(p.topic, p.partition) for p in partitions]
        asyncio.run_coroutine_threadsafe(self._claim_topics({name for name, _ in places}), self._loop).result()
        stored = asyncio.run_coroutine_threadsafe(self._load_offsets(places), self._loop).result()
        topics.check_ends(self._properties, stored)
        self._next = {place: end.offset for place, end in stored.items()}
        consumer.assign([histories.resume(place, end.offset, end.epoch) for place, end in stored.items()])
        _log.info("indexer.assigned", partitions=len(places))

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called in the polling thread. Who has the partitions next finds what we were writing."""
        self._settle()
        self._next = {}
        _log.info("indexer.revoked", partitions=len(partitions))

    def _settle(self) -> None:
        asyncio.run_coroutine_threadsafe(self._written(), self._loop).result()

    async def _claim_topics(self, names: set[str]) -> set[str]:
        """Return those that are there."""
        ids = await asyncio.to_thread(asking.ids, self._properties, names)
        await topics.claim(self._pool, self._settings.store, ids)
        return set(ids)

    async def _watch_topics(self) -> None:
        """Fail when a topic was made anew, or is gone: the consumer takes it for the old one, or just waits."""
        gone: set[str] = set()
        while True:
            await asyncio.sleep(TOPIC_CHECK_INTERVAL_S)
            with suppress(KafkaUnavailableError):
                known = {row["topic"] for row in await self._pool.fetch(self._sql["known_topics"])}
                found = await self._claim_topics(known | {name for name, _ in self._next})
                before, gone = gone, known - found
                if lost := gone & before:  # a broker that has just started may not know all topics yet
                    raise topics.lost(lost)

    async def _load_offsets(self, places: Sequence[Place]) -> dict[Place, asking.End]:
        names, numbers = [topic for topic, _ in places], [p for _, p in places]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(self._sql["lock_claims"])
            await connection.execute(self._sql["claim_new"], names, numbers)
            rows = await connection.fetch(self._sql["offsets"], names, numbers)
        await self._pool.execute(self._sql["frontier"])  # whoever had them may have died just before it did
        return {(row["topic"], row["partition"]): asking.End(row["next_offset"], row["leader_epoch"]) for row in rows}
