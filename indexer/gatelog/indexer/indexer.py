"""The indexer service: consumes the store's topics and fills the index, exactly once.

The offsets are stored in the transaction that writes the rows, by compare-and-set: whatever the consumer group
believes, a record is written once, and an indexer that lost a partition without knowing writes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from confluent_kafka import Consumer, Message, TopicPartition

from gatelog.core import kafka, logs, migrations, postgres, services, shards
from gatelog.core.domain import topic_pattern
from gatelog.core.errors import (
    GatelogError,
    KafkaUnavailableError,
    PostgresUnavailableError,
    SettingsError,
    UndecodableRecordError,
)
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.indexer.rows import (
    COLUMNS,
    EVENT_ID,
    POSITION,
    STREAM,
    UNREADABLE_COLUMNS,
    VERSION,
    Row,
    json_of,
    row_of,
    unreadable_row,
)
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import ForeignRecordError, Record, parse_record, source_of
from gatelog.schemas.registry import PostgresRegistry, Registry

POLL_S: Final = 0.25
RETRY_INTERVAL_S: Final = 1.0
TOPIC_REFRESH_MS: Final = 1_000  # how soon a new category's topic is seen
# Brokers allow no less. A member that is declared dead too early does no harm: it writes nothing (see _write).
SESSION_TIMEOUT_MS: Final = 6_000
PACKAGE: Final = "gatelog.indexer"

_log = logs.logger("indexer")

Place = tuple[str, int]  # topic, partition


class PartitionLostError(GatelogError):
    """Another indexer has written past us: this one's assignment is stale."""

    retryable = True


@dataclass(slots=True)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)  # of the rows
    unreadable: list[Row] = field(default_factory=list)
    upto: dict[Place, int] = field(default_factory=dict)  # next offset


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
        dsns = settings.shard_dsns or (settings.dsn,)
        if not 0 <= shard < len(dsns):
            raise SettingsError(f"There is no shard {shard} of the index: its shards are 0 to {len(dsns) - 1}.")
        self._dsn = dsns[shard]
        self._properties = settings.kafka_properties

    async def run(self, stop: asyncio.Event) -> None:
        """Index until ``stop`` is set. What passes is waited out; what does not is raised.

        Raises:
            LogMismatchError: records that were not indexed yet are gone from Kafka.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
            IndexPlaceError: a database is not what the settings say.
        """
        while not stop.is_set():
            try:
                await self._consume(stop)
            except (PostgresUnavailableError, KafkaUnavailableError, PartitionLostError) as error:
                _log.warning("indexer.interrupted", error=str(error), retry_in_s=RETRY_INTERVAL_S)
                await services.wait_any(RETRY_INTERVAL_S, stop)

    async def _consume(self, stop: asyncio.Event) -> None:
        settings = self._settings
        async with self._pools() as (gate, pool):
            registry = PostgresRegistry(settings, gate)
            with postgres.translated(settings.store, self._dsn):
                session = _Session(settings, self._shard, pool, registry)
                try:
                    while not stop.is_set():
                        await session.run_once()
                finally:
                    await session.close()

    @asynccontextmanager
    async def _pools(self) -> AsyncIterator[tuple[postgres.Pool, postgres.Pool]]:
        """Yield connections to the gate's database, where the schemas are, and to the index; often the same."""
        settings = self._settings
        async with postgres.pool(settings.dsn, settings.store, "gatelog indexer", 2) as gate:
            with postgres.translated(settings.store, settings.dsn):
                async with gate.acquire() as connection:
                    key = await shards.check_gate(connection, settings)
                    if key is None:
                        await migrations.check(connection, settings.store, PACKAGE)
            if key is None:
                yield gate, gate
                return
            async with postgres.pool(self._dsn, settings.store, "gatelog indexer", 2) as pool:
                with postgres.translated(settings.store, self._dsn):
                    async with pool.acquire() as connection:
                        await shards.check_shard(connection, settings, self._shard, key)
                        await migrations.check(connection, settings.store, PACKAGE)
                yield gate, pool


class _Session:
    """One membership in the consumer group, and what it has in hand."""

    def __init__(self, settings: Settings, shard: int, pool: postgres.Pool, registry: Registry) -> None:
        self._settings = settings
        self._shard, self._shards = shard, max(1, len(settings.index_dsns))
        self._properties = settings.kafka_properties
        self._pool = pool
        self._sql = queries(PACKAGE, "index.sql", settings.store)
        self._codec = Codec(registry, register=False)
        self._source = source_of(settings.store)
        self._next: dict[Place, int] = {}
        self._loop = asyncio.get_running_loop()
        own = kafka.client_properties(
            self._properties,
            group_id=f"gatelog.{settings.store}.indexer" + (f".{shard}" if self._shards > 1 else ""),
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

    async def close(self) -> None:
        await asyncio.to_thread(self._consumer.close)

    async def run_once(self) -> int:
        """Index what has arrived; return the number of records."""
        rows_max = self._settings.index_rows_max
        messages = await asyncio.to_thread(kafka.poll, self._consumer, self._properties, POLL_S, rows_max)
        if not messages:
            return 0
        await self._write(await self._read(messages))
        return len(messages)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Called in the polling thread: go on where Postgres says, not where the group believes."""
        places = [(p.topic, p.partition) for p in partitions]
        self._next = asyncio.run_coroutine_threadsafe(self._load_offsets(places), self._loop).result()
        consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in self._next.items()])
        _log.info("indexer.assigned", partitions=len(places))

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._next = {}
        _log.info("indexer.revoked", partitions=len(partitions))

    async def _load_offsets(self, places: Sequence[Place]) -> dict[Place, int]:
        topics, numbers = [topic for topic, _ in places], [p for _, p in places]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(self._sql["lock_claims"])
            await connection.execute(self._sql["claim_new"], topics, numbers)
            rows = await connection.fetch(self._sql["offsets"], topics, numbers)
        await self._pool.execute(self._sql["frontier"])  # whoever had them may have died just before it did
        return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}

    async def _read(self, messages: Sequence[Message]) -> _Batch:
        batch, records = _Batch(), []
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            if (topic, partition) not in self._next:
                continue  # revoked while it was on its way
            batch.upto[topic, partition] = offset + 1
            if self._shards > 1 and not self._is_ours(message.key()):
                continue
            try:
                record = parse_record(self._source, message.headers(), message.value())
                if self._shards > 1 and not self._is_ours(record.stream):
                    raise UndecodableRecordError(f"its key is not its stream {record.stream!r}")
                records.append((message, record))
            except ForeignRecordError as error:
                _log.warning("record.foreign", topic=topic, partition=partition, offset=offset, reason=str(error))
            except UndecodableRecordError as error:
                self._keep(batch, message, str(error))
        if self._settings.index_jsonb:
            await self._codec.warm({record.schema_id for _, record in records})
        for message, record in records:
            batch.rows.append(row_of(record, self._json(batch, message, record)))
            batch.messages.append(message)
        return batch

    def _is_ours(self, stream: str | bytes | None) -> bool:
        """Every shard reads every record and keeps its own; what has no key is kept by the first."""
        encoded = stream.encode() if isinstance(stream, str) else stream or b""
        return shards.shard_of(encoded, self._shards) == self._shard

    def _json(self, batch: _Batch, message: Message, record: Record) -> str | None:
        if not self._settings.index_jsonb:
            return None
        try:
            return json_of(self._codec, record.schema_id, record.raw)
        except UndecodableRecordError as error:
            self._keep(batch, message, str(error))  # its envelope and bytes are indexed all the same
            return None

    def _keep(self, batch: _Batch, message: Message, reason: str) -> None:
        batch.unreadable.append(unreadable_row(message, reason))
        _log.error(
            "record.unreadable",
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
            reason=reason,
        )

    async def _write(self, batch: _Batch) -> None:
        if not batch.upto:
            return
        try:
            await self._store(batch)
        except asyncpg.UniqueViolationError:
            await self._set_doubles_aside(batch)
            await self._store(batch)
        self._next.update(batch.upto)

    async def _store(self, batch: _Batch) -> None:
        """Rows and offsets in one transaction, or neither."""
        places = sorted(batch.upto)  # one lock order for all indexers
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                moved = await connection.fetch(
                    self._sql["advance"],
                    [topic for topic, _ in places],
                    [partition for _, partition in places],
                    [self._next[place] for place in places],
                    [batch.upto[place] for place in places],
                )
                if len(moved) < len(places):
                    raise PartitionLostError(
                        f"Another indexer has written to {len(places) - len(moved)} of {len(places)} partitions: "
                        "this one's assignment is stale. It wrote nothing and joins the group again."
                    )
                await self._copy(connection, "events", COLUMNS, batch.rows)
                await self._copy(connection, "unreadable_records", UNREADABLE_COLUMNS, batch.unreadable)
            await connection.execute(self._sql["frontier"])

    async def _set_doubles_aside(self, batch: _Batch) -> None:
        """Keep records that repeat what the index holds: somebody else wrote them into the topic."""
        rows = await self._pool.fetch(
            self._sql["doubles"],
            [row[POSITION] for row in batch.rows],
            [row[STREAM] for row in batch.rows],
            [row[VERSION] for row in batch.rows],
            [row[EVENT_ID] for row in batch.rows],
        )
        doubles = {row["place"] for row in rows}
        for place in doubles:
            self._keep(batch, batch.messages[place], "its position, its version in the stream, or its id is taken")
        batch.rows = [row for place, row in enumerate(batch.rows) if place not in doubles]
        batch.messages = []

    async def _copy(
        self, connection: postgres.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]
    ) -> None:
        if rows:
            await connection.copy_records_to_table(
                table, schema_name=self._settings.store, columns=columns, records=rows
            )
