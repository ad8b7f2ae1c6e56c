"""When Postgres and Kafka disagree: find out how, and make Postgres follow Kafka.

Kafka holds the log of record. What it holds is not published again, whatever Postgres remembers; what only Postgres
holds stays due, unless Kafka has another event in its place.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import asyncpg
from confluent_kafka import Message

from gatelog.core import histories, migrations, postgres, tail
from gatelog.core.errors import ReconcileRefusedError, RelayActiveError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.core.settings import Settings
from gatelog.core.shards import shard_of
from gatelog.core.shards.databases import Databases, opened
from gatelog.core.sql import queries
from gatelog.core.tail import Ends, Offsets, offsets_of
from gatelog.producer.elsewhere.copying import IndexCopy
from gatelog.producer.findings import Findings, Streak
from gatelog.producer.relay.publisher import Publisher
from gatelog.producer.relay.ticks import PACKAGE
from gatelog.producer.relay.topics import Topics
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.envelope import ForeignRecordError, Record, parse_record
from gatelog.schemas.event import StreamClosed

LOCK_WAIT_S: Final = 2.0
_EXAMPLES: Final = 5
_BATCH_ROWS: Final = 500
_COLUMNS: Final = (
    "position",
    "stream",
    "version",
    "event_id",
    "type",
    "schema_id",
    "recorded_at",
    "correlation_id",
    "causation_id",
    "traceparent",
    "metadata",
    "data",
    "nth",
)

Keep: TypeAlias = Callable[[Sequence[asyncpg.Record]], Awaitable[None]]


@dataclass(slots=True)
class _Look:
    """What was read from Kafka, apart from the records themselves, which are in a temporary table."""

    ends: Ends
    shorter: list[str]
    copies: int = 0
    read: int = 0
    foreign: list[str] = field(default_factory=list)
    foreign_total: int = 0
    unreadable: list[str] = field(default_factory=list)
    unreadable_total: int = 0


@asynccontextmanager
async def reconciliation(settings: Settings) -> AsyncIterator["Reconciliation"]:
    """Keep every relay of the store out, fence those before, read what Kafka holds, and yield what follows from it.

    Raises:
        RelayActiveError: a relay is active.
        IndexPlaceError: a database is not what the settings say.
        ForeignStoreError: Kafka holds topics of another store of the same name.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time.
    """
    async with relays_kept_out(settings) as (databases, _publisher):
        made = Reconciliation(databases.settings, databases)
        await made.read()
        yield made


@asynccontextmanager
async def relays_kept_out(settings: Settings) -> AsyncIterator[tuple[Databases, Publisher]]:
    """Yield the store's databases, the gate's with the relay's lock, and the transactional producer: we are alone.

    Raises:
        RelayActiveError: a relay is active.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        IndexPlaceError: a database is not what the settings say.
        ForeignStoreError: Kafka holds topics of another store of the same name.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time.
    """
    store = settings.store
    async with opened(settings, "gatelog reconcile") as databases:
        with postgres.translated(store, settings.dsn):
            await migrations.check(databases.gate, store, PACKAGE)
            for connection in databases.shards:
                await migrations.check(connection, store, "gatelog.indexer")
            await _lock(databases.gate, store, queries("gatelog.producer", "reconcile.sql", store))
            await asyncio.to_thread(Namesakes(databases.settings).refuse_any)
            # Nothing open is left, and nothing comes after.
            publisher = await asyncio.to_thread(Publisher, databases.settings)
            try:
                yield databases, publisher
            finally:
                await asyncio.to_thread(publisher.close)


async def _lock(connection: "asyncpg.Connection[asyncpg.Record]", store: str, sql: dict[str, str]) -> None:
    """Take the relay's lock. Who has just stopped may hold it for a moment more."""
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT_S
    while not await connection.fetchval(sql["lock"]):
        if asyncio.get_running_loop().time() > deadline:
            raise RelayActiveError(store, await connection.fetchval(sql["holder"]))
        await asyncio.sleep(LOCK_WAIT_S / 10)


class Reconciliation:
    """What differs, and its repair, while no relay can be active."""

    def __init__(self, settings: Identified, databases: Databases) -> None:
        """Work through ``databases``, of which the gate's connection holds the relay's lock."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._connection = databases.gate
        self._index = IndexCopy(databases)
        self._sql = queries("gatelog.producer", "reconcile.sql", settings.store)
        self._mark = queries(PACKAGE, "relay.sql", settings.store)["mark"]
        self._seen = _Look({}, [])
        self._indexed: list[Offsets] = []  # of each shard; none: what is indexed is read, too
        self._is_anew = False  # tables of the gate were lost
        self._aside: set[tail.RecordPlace] = set()  # below that, and not in the index
        self._dismissed: set[tail.RecordPlace] = set()

    async def read(self) -> None:
        """Read what Kafka holds past the index, or all of it when it ends before where it was seen.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        topics = await asyncio.to_thread(Topics(self._settings).of_store)
        indexed = await self._index.offsets()
        state = await self._connection.fetchrow(self._sql["state"])
        assert state is not None
        self._is_anew = bool(state["is_anew"])
        ends = await asyncio.to_thread(tail.stands_of, self._properties, topics)
        begins = await asyncio.to_thread(tail.begins_of, self._properties, topics)
        shorter: set[str] = set()
        for seen in (tail.ends_from_json(state["checked_offsets"]), *indexed):
            pair = histories.flat(seen), histories.flat(ends)
            shorter |= set((await asyncio.to_thread(histories.differences, self._properties, *pair)).values())
        self._seen = _Look(ends, sorted(shorter))
        starts = begins
        self._aside, self._dismissed = await self._index.kept()
        if not shorter:
            self._indexed = [offsets_of(each) for each in indexed]
            starts = {
                name: [max(begin, min(self._unread(name, p))) for p, begin in enumerate(offsets)]
                for name, offsets in begins.items()
            }
        await self._index.make()
        await self._index.copy(0 if self._is_anew else min((await self._index.state())[0], state["position"]))
        await self._connection.execute(self._sql["make_found"])
        await self._connection.execute(self._sql["make_unread"])
        async with aclosing(tail.stream(self._properties, starts, offsets_of(ends))) as chunks:
            async for chunk in chunks:
                await self._keep(chunk)
        await self._connection.execute(
            "CREATE INDEX ON found (event_id); CREATE INDEX ON found (stream, version);"
            "CREATE INDEX ON found (position); ANALYZE found"
        )
        if not shorter:
            self._seen.copies = await self._connection.fetchval(self._sql["tidy_found"])

    async def look(self) -> Findings:
        """Return what differs now."""
        sql, connection, seen = self._sql, self._connection, self._seen
        await connection.execute(sql["forget_judged"])
        await connection.execute(sql["judge"])
        state = await connection.fetchrow(sql["state"])
        counts = await connection.fetchrow(sql["counts"])
        assert state is not None
        assert counts is not None
        is_whole = bool(seen.shorter)
        frontier, highest = await self._index.state()
        after = 0 if is_whole else frontier
        missing = await connection.fetch(sql["missing"], after, max(state["position"], highest), is_whole)
        kafka_position = max(counts["found_position"], 0 if is_whole else highest)
        committed = kafka_position >= state["position"] + state["pending_events"]
        return Findings(
            position=state["position"],
            pending=state["pending_events"],
            kafka_position=kafka_position,
            restored=state["restarted"],
            tick_lacks=0 if committed else max(0, state["pending_events"] - counts["pending"]),
            lost=counts["lost"],
            lost_examples=_streaks(await connection.fetch(sql["lost_examples"])),
            due=counts["due"],
            conflicting=counts["conflicting"],
            conflicting_examples=_streaks(await connection.fetch(sql["conflicting_examples"])),
            shorter=seen.shorter,
            missing=missing[0]["total"] if missing else 0,
            missing_ranges=[(row["first"], row["last"]) for row in missing],
            unknown_schemas=[
                f"id {row['schema_id']} of {row['type']} ({row['events']:,} events, first at position "
                f"{row['position']:,})"
                for row in await self._unknown_schemas()
            ],
            clashes=[
                f"position {row['position']:,} ({row['stream']}@{row['version']}, {row['event_id']})"
                for row in await connection.fetch(sql["clashes"], is_whole)
            ],
            aside=len(self._aside),
            copies=seen.copies,
            foreign=seen.foreign_total,
            foreign_examples=seen.foreign,
            unreadable=seen.unreadable_total,
            unreadable_examples=seen.unreadable,
        )

    async def _unknown_schemas(self) -> Sequence[asyncpg.Record]:
        """Return the schemas of Kafka's records that the registry lacks; the tables also know their types."""
        if self._settings.registry_url is None:
            return await self._connection.fetch(self._sql["unknown_schemas"])
        used = await self._connection.fetch(self._sql["used_schemas"])
        known = await ConfluentRegistry(self._settings).load({row["schema_id"] for row in used})
        return [row for row in used if row["schema_id"] not in known]

    async def apply(self, keep: Keep | None) -> Findings:
        """Make Postgres follow Kafka, in one transaction, and return what was found.

        ``keep`` is given the rows of conflicting events, some at a time, before they are removed.

        Raises:
            ReconcileRefusedError: something cannot be repaired, or events conflict and ``keep`` is None, or the role
                is not the owner of the tables, or a transaction that has appended does not end. Nothing was changed.
        """
        connection, sql = self._connection, self._sql
        if not await connection.fetchval(sql["is_owner"]):
            raise ReconcileRefusedError(
                "Only the owner of the tables, the role that ran `gatelog init`, may repair them."
            )
        mark = await connection.fetchrow(self._mark)  # before the transaction: it does not see what that writes
        assert mark is not None
        async with connection.transaction():
            await self._lock_tables()
            found = await self.look()  # again: there were appends since
            if found.agree:
                return found
            self._refuse(found, drops=keep is not None)
            if keep is not None:
                await self._hand_over(keep)
            await connection.execute(sql["raise_sequences"])
            await connection.execute(sql["raise_identities"])
            await connection.execute(sql["take_due"])
            await connection.execute(sql["empty_outbox"])
            await connection.execute(sql["put_published"], mark["snapshot"])
            await connection.execute(sql["put_due"])
            await self._index.remember()
            await connection.execute(sql["set_gate"], StreamClosed.event_type, found.position, self._is_anew)
            ends = tail.ends_as_json(self._seen.ends)
            at = found.kafka_position
            await connection.execute(sql["set_relay"], at, ends, mark["last_id"], mark["xid"], mark["snapshot"])
            await connection.execute(sql["set_witness"])
            await connection.execute(sql["set_rotation"])  # last: who keeps the outbox waits for this row
        return found

    async def _keep(self, messages: Sequence[Message]) -> None:
        """Copy records into the temporary table."""
        source, seen = self._settings.source, self._seen
        rows, unread = [], []
        for message in messages:
            if self._is_indexed(message):
                continue
            try:
                seen.read += 1
                rows.append(_row(parse_record(source, message.headers(), message.value()), seen.read))
            except ForeignRecordError as error:
                seen.foreign_total += 1
                seen.foreign += _example(seen.foreign, message, error)
            except UndecodableRecordError as error:
                seen.unreadable_total += 1
                seen.unreadable += _example(seen.unreadable, message, error)
                unread.append((_key(message),))
        await self._connection.copy_records_to_table("unread", records=unread)
        if rows:
            positions, streams, versions, ids = ([row[column] for row in rows] for column in range(4))
            await self._index.copy_like(positions, ids, streams, versions)
            await self._connection.copy_records_to_table("found", columns=_COLUMNS, records=rows)

    def _unread(self, topic: str, partition: int) -> list[int]:
        """Return the offsets of a partition at which a shard would go on, or has set a record aside."""
        aside = [offset for name, p, offset in self._aside if (name, p) == (topic, partition)]
        return aside + [_at(each, topic, partition) for each in self._indexed]

    def _is_indexed(self, message: Message) -> bool:
        """Say whether the shard of a record, which its key tells, has read it, or somebody has dismissed it."""
        place = tail.place_of(message)
        if place in self._dismissed:
            return True
        if not self._indexed or place in self._aside:
            return False
        topic, partition, offset = place
        shard = shard_of(_key(message), len(self._indexed))
        return offset < _at(self._indexed[shard], topic, partition)

    async def _lock_tables(self) -> None:
        try:
            await self._connection.execute(self._sql["lock_tables"])
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            raise ReconcileRefusedError(
                "A transaction that has appended is still open after 10 s. Stop the producers, or wait, and run "
                "`gatelog reconcile --apply` again. Nothing was changed."
            ) from error

    def _refuse(self, found: Findings, *, drops: bool) -> None:
        if found.obstacles:
            raise ReconcileRefusedError(" ".join([*found.obstacles, "Nothing was changed."]))
        if found.conflicting and not drops:
            raise ReconcileRefusedError(
                f"{found.conflicting:,} events were accepted in place of others that Kafka holds, or behind events "
                f"that are lost, for example {', '.join(map(str, found.conflicting_examples))}. They cannot be "
                "published. `gatelog reconcile --apply --drop-conflicting` writes them to a file and removes them. "
                "Nothing was changed."
            )

    async def _hand_over(self, keep: Keep) -> None:
        batch: list[asyncpg.Record] = []
        async for row in self._connection.cursor(self._sql["conflicting"], prefetch=_BATCH_ROWS):
            batch.append(row)
            if len(batch) == _BATCH_ROWS:
                await keep(batch)
                batch = []
        if batch:
            await keep(batch)


def _key(message: Message) -> bytes:
    key = message.key()
    return key.encode() if isinstance(key, str) else key or b""


def _at(offsets: Offsets, topic: str, partition: int) -> int:
    return (offsets.get(topic, [])[partition : partition + 1] or [0])[0]


def _row(record: Record, nth: int) -> tuple[Any, ...]:
    return (
        record.position,
        record.stream,
        record.version,
        record.id,
        record.type,
        record.schema_id,
        record.recorded_at,
        record.correlation_id,
        record.causation_id,
        record.traceparent,
        record.metadata_json,
        record.raw,
        nth,
    )


def _example(have: list[str], message: Message, error: Exception) -> list[str]:
    if len(have) >= _EXAMPLES:
        return []
    return [f"{message.topic()} partition {message.partition()} offset {message.offset()}: {error}"]


def _streaks(rows: Sequence[asyncpg.Record]) -> list[Streak]:
    return [Streak(row["stream"], row["first"], row["last"], row["events"]) for row in rows]
