"""``gatelog index rebuild``: the index, or a shard, anew from Kafka, beside the live one, and then in its place.

Whatever moment it dies at, the next run goes on there: rows are stored with their offsets, and the switch is one
transaction. The live index is read and written all the time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

import asyncpg
from confluent_kafka import Message

from gatelog.core import asking, kafka, logs, postgres, shards, tail
from gatelog.core.asking import End
from gatelog.core.errors import GatelogError, LogMismatchError, RebuildActiveError, RebuildRefusedError
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.tail import Offsets
from gatelog.core.telling import told
from gatelog.indexer import topics
from gatelog.indexer.batches import Batch, BatchReader, Place
from gatelog.indexer.forgeries import Gate
from gatelog.indexer.fresh import PACKAGE, Fresh
from gatelog.indexer.places import index_pools
from gatelog.indexer.rows import EVENT_ID, POSITION
from gatelog.indexer.writing import Writer
from gatelog.schemas.codec import Codec
from gatelog.schemas.registries import registry_of

CONNECTIONS_MAX: Final = 3
NEAR_RECORDS: Final = 5_000  # a round of so few is near enough for the switch
PAUSE_S_MAX: Final = 10.0  # that indexers are held for a switch
SNAPSHOT_WAIT_S_MAX: Final = 2.0  # of this, for readers under old snapshots
QUIET_S: Final = 1.0  # who reads under a snapshot that is older is waited for before indexers are held
WAIT_S: Final = 0.5
_CHECK_S: Final = 0.05

Report: TypeAlias = Callable[[str, int, int], None]  # stage, done, total

_log = logs.logger("rebuild")


class _NotNowError(GatelogError):
    """Somebody still reads under an old snapshot: the switch is tried again."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The index, or the shard of it, that took the live one's place."""

    shard: int
    resumed: bool
    records: int  # that this run has read
    frontier: int
    highest: int  # position that it held when it took the place
    unreadable: int  # records that were kept aside


async def rebuild(settings: Settings, report: Report, *, shard: int = 0, restart: bool = False) -> Rebuilt:
    """Fill a fresh index from Kafka, and put it in the live one's place; goes on with a rebuild that was broken off.

    ``report`` is told how far each stage is. ``shard``: which of ``index_dsns``, counted from 0. ``restart`` drops
    what an earlier run has made and begins anew.

    One shard of several cannot tell by itself what it lacks: its frontier stays as it was, if what it holds up to
    there is the same; else it ends before the first event that it lacked, and who knows all shards raises it.

    Raises:
        SettingsError: there is no such shard.
        IndexPlaceError: a database is not what the settings say.
        ForeignStoreError: a topic is another store's of the same name.
        RebuildRefusedError: the live index holds events that Kafka lacks; a topic was made anew since the rebuild
            began; our role does not own the tables.
        RebuildActiveError: another rebuild is at work.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time. The next run goes on.
    """
    async with _opened(settings, shard) as (own, fresh, gate, pool):
        left = await fresh.left()
        if left.is_begun and (restart or not left.is_growing):
            await _clear(fresh)
            if not left.is_growing and not restart:  # only this was left to do
                return await _result(settings, shard, pool, await fresh.highest(), resumed=True, records=0)
        is_begun = left.is_growing and not restart
        if not is_begun:
            await fresh.make(indexed=False)
        work = _Rebuild(own, shard, fresh, gate, pool, report)
        try:
            await work.run()
        except asyncpg.UniqueViolationError:
            _log.warning(
                "rebuild.restarted", why="records repeat others: with every index from the beginning, slower"
            )
            await fresh.clear()
            await fresh.make(indexed=True)
            work = _Rebuild(own, shard, fresh, gate, pool, report)
            await work.run()
        await _clear(fresh)
        return await _result(settings, shard, pool, work.highest, resumed=is_begun, records=work.records)


@asynccontextmanager
async def _opened(
    settings: Settings, shard: int
) -> AsyncIterator[tuple[Identified, Fresh, postgres.Pool, postgres.Pool]]:
    """Yield the settings with the store's id, the fresh tables, and pools of the gate's database and the shard's."""
    dsn, store = shards.dsn_of(settings, shard), settings.store
    async with index_pools(settings, shard, "gatelog rebuild", CONNECTIONS_MAX) as (own, gate, pool):
        connection = await postgres.connect(dsn, store, "gatelog rebuild")
        try:
            with postgres.translated(store, dsn):
                fresh = Fresh(connection, store)
                await fresh.prepare()
                if not await fresh.is_owner():
                    raise RebuildRefusedError(
                        "Only the owner of the tables, the role that ran `gatelog init`, may rebuild the index."
                    )
                if not await fresh.lock():
                    raise RebuildActiveError(store)
                yield own, fresh, gate, pool
        finally:
            connection.terminate()


async def _clear(fresh: Fresh) -> None:
    try:
        await fresh.clear()
    except asyncpg.DependentObjectsStillExistError as error:
        raise RebuildRefusedError(
            "The index was rebuilt and is in place, but the table that it replaces cannot be dropped: "
            f"{error.detail or error}. Drop what depends on it, and run `gatelog index rebuild` again to finish."
        ) from error


async def _result(
    settings: Settings, shard: int, pool: postgres.Pool, highest: int, *, resumed: bool, records: int
) -> Rebuilt:
    row = await pool.fetchrow(queries(PACKAGE, "index.sql", settings.store)["status"])
    assert row is not None
    return Rebuilt(shard, resumed, records, row["frontier"], highest, row["unreadable"])


class _Rebuild:
    """One run."""

    def __init__(
        self,
        settings: Identified,
        shard: int,
        fresh: Fresh,
        gate: postgres.Pool,
        pool: postgres.Pool,
        report: Report,
    ) -> None:
        self._settings = settings
        self._properties = settings.kafka_properties
        self._fresh = fresh
        self._pool = pool
        self._report = report
        self._sql = queries(PACKAGE, "index.sql", fresh.schema)
        self._gate = Gate(settings, gate)
        codec = Codec(registry_of(settings, gate), register=False, upcasts=False)
        self._owns = shards.owner_of(settings, shard)
        self._reader = BatchReader(settings, codec, with_json=settings.index_jsonb, owns=self._owns)
        self._next: dict[Place, int] = {}
        self._known = 0  # up to here, the live index held all
        self._surplus: int | None = None  # the lowest position that the live index should have held
        self.records = 0
        self.highest = 0

    async def run(self) -> None:
        """From wherever the last run was, to the switch."""
        self._known = await self._fresh.live_frontier()
        lacking = await self._fresh.lacking_indexes()
        await self._copy(
            Writer(self._pool, self._fresh.schema, repeated="repeated_positions" if lacking else "doubles")
        )
        for done, (name, definition) in enumerate(lacking):
            self._report(f"index {name.removeprefix('events_')}", done, len(lacking))
            await self._fresh.build(definition)
        if lacking:
            self._report("build indexes", len(lacking), len(lacking))
        await self._fresh.tidy()
        writer = Writer(self._pool, self._fresh.schema)
        known = await self._fresh.live_frontier()
        await self._catch_up(writer)
        self._refuse_less(await self._compared(0, known))
        self._surplus = await self._fresh.surplus(0, known)
        self._report("switch", 0, 1)
        while not (await self._is_quiet() and await self._switched(writer, known)):
            await asyncio.sleep(WAIT_S)
            await self._catch_up(writer)
        self._report("switch", 1, 1)

    async def _catch_up(self, writer: Writer) -> None:
        while await self._copy(writer) > NEAR_RECORDS:
            pass

    async def _copy(self, writer: Writer) -> int:
        """Read up to the ends of the topics, and return the number of records."""
        admin = kafka.admin(self._properties)
        found = await asyncio.to_thread(kafka.topics_of, admin, self._properties, self._settings.store)
        ids = await asyncio.to_thread(asking.ids, self._properties, found)
        begins = await asyncio.to_thread(tail.begins_of, self._properties, found)
        ends = await asyncio.to_thread(tail.ends_of, self._properties, found)
        try:
            await topics.claim(self._pool, self._fresh.schema, ids)
            await self._load_offsets(begins)
        except LogMismatchError as error:
            raise RebuildRefusedError(
                "A topic was deleted and made again, or lost its end, since this rebuild began. The live index was "
                "not changed. Begin anew: gatelog index rebuild --restart"
            ) from error
        starts = {
            name: [max(begin, self._next[name, p]) for p, begin in enumerate(offsets)]
            for name, offsets in begins.items()
        }
        return await self._read(writer, begins, starts, ends)

    async def _read(self, writer: Writer, begins: Offsets, starts: Offsets, ends: Offsets) -> int:
        before = self.records
        total = sum(map(sum, ends.values())) - sum(map(sum, begins.values()))
        async with aclosing(tail.stream(self._properties, starts, ends)) as chunks:
            async for chunk in chunks:
                await self._write(writer, chunk)
                self._report("copy records", min(total, self._done(begins)), total)
        return self.records - before

    def _done(self, begins: Offsets) -> int:
        return sum(max(0, self._next[name, p] - b) for name, offsets in begins.items() for p, b in enumerate(offsets))

    async def _write(self, writer: Writer, messages: Sequence[Message]) -> None:
        rows_max = self._settings.index_rows_max
        for first in range(0, len(messages), rows_max):
            batch = await self._reader.read(messages[first : first + rows_max], self._next)
            await self._sift(batch)
            await writer.write(batch, self._next)
            await writer.advance_frontier()
            self._next.update(batch.upto)
        self.records += len(messages)

    async def _sift(self, batch: Batch) -> None:
        """Tell the event among records at one position: by the live index up to its frontier, by the gate past it."""
        positions, ids = [row[POSITION] for row in batch.rows], [row[EVENT_ID] for row in batch.rows]
        if others := await self._fresh.others(positions, ids):
            batch.set_aside(others, "the live index has another event at its position")
        await self._gate.sift(batch, self._known)

    async def _load_offsets(self, begins: Offsets) -> None:
        places = [(name, p) for name, offsets in begins.items() for p in range(len(offsets))]
        names, numbers = [name for name, _ in places], [p for _, p in places]
        await self._pool.execute(self._sql["claim_new"], names, numbers)
        rows = await self._pool.fetch(self._sql["offsets"], names, numbers)
        stored = {(row["topic"], row["partition"]): End(row["next_offset"], row["leader_epoch"]) for row in rows}
        await asyncio.to_thread(topics.check_ends, self._properties, stored)
        self._next = {place: end.offset for place, end in stored.items()}
        await self._pool.execute(self._sql["frontier"])  # the last run may have died just before it did

    async def _compared(self, after: int, upto: int | None = None) -> str | None:
        """Say what the live index holds above ``after``, up to ``upto``, and the fresh one does not."""
        lacking = await self._fresh.lacking(after, upto)
        return f"{lacking.total:,} events at positions {lacking}" if lacking.total else None

    def _refuse_less(self, lacking: str | None) -> None:
        if lacking is not None:
            raise RebuildRefusedError(
                f"The live index holds {lacking}, which Kafka does not hold, or not readably. A rebuild would lose "
                "them, so the live index stays. `gatelog republish` puts them back into Kafka; then run `gatelog "
                "index rebuild --restart`."
            )

    async def _is_quiet(self) -> bool:
        """Say whether nobody reads under a snapshot that would hold the switch up, and the indexers with it."""
        since = await self._pool.fetchval("SELECT clock_timestamp()") - timedelta(seconds=QUIET_S)
        if (reader := await self._fresh.oldest_reader(self._pool, since)) is not None:
            _log.info("rebuild.waits", why=_reader(reader))
        return reader is None

    async def _switched(self, writer: Writer, known: int) -> bool:
        """Try to switch. The live index was compared up to its frontier ``known``."""
        connection = self._fresh.connection
        try:
            async with asyncio.timeout(None) as pause, connection.transaction():
                await self._fresh.hold()
                pause.reschedule(asyncio.get_running_loop().time() + PAUSE_S_MAX)
                await self._reach_live(writer)
                self._refuse_less(await self._compared(known))
                if self._owns is not None:
                    await self._keep_frontier(known)
                await self._wait_for_old_snapshots()
                pause.reschedule(None)  # what follows is bounded by its locks, and a commit is not to be broken off
                await self._fresh.take_place()
                self.highest = await self._fresh.highest()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            _log.info("rebuild.waits", why="a transaction that has read the index is open: tried again")
        except TimeoutError:
            _log.info("rebuild.waits", why=f"the switch took over {PAUSE_S_MAX:g} s: tried again")
        except _NotNowError as error:
            _log.info("rebuild.waits", why=told(error))
        else:
            return True
        return False

    async def _keep_frontier(self, known: int) -> None:
        """Bring over what the live shard knew of the others: up to its frontier, it holds all that is its.

        What holds the same up to there is as whole. If the fresh one holds more, the live one's frontier was wrong
        from there on, and nobody knows about events that both lack: it is walked again, over all shards.
        """
        front = await self._fresh.live_frontier()
        first = self._surplus if self._surplus is not None else await self._fresh.surplus(known, front)
        await self._fresh.raise_frontier(front if first is None else first - 1)

    async def _reach_live(self, writer: Writer) -> None:
        """Read on until no partition is behind the live index."""
        live = await self._fresh.live_offsets()
        behind = {place: offset for place, offset in live.items() if self._next.get(place, 0) < offset}
        if behind:
            there = await asyncio.to_thread(topics.of_names, self._properties, {name for name, _ in behind})
            ends = await asyncio.to_thread(tail.ends_of, self._properties, there)
            upto = {
                name: [min(end, behind.get((name, p), 0)) for p, end in enumerate(offsets)]
                for name, offsets in ends.items()
            }
            starts = {name: [self._next.get((name, p), 0) for p in range(len(each))] for name, each in upto.items()}
            await self._read(writer, starts, starts, upto)

    async def _wait_for_old_snapshots(self) -> None:
        """Wait until every snapshot sees all of the fresh index: an older one would find a hole in it."""
        since = await self._pool.fetchval("SELECT clock_timestamp()")
        deadline = asyncio.get_running_loop().time() + SNAPSHOT_WAIT_S_MAX
        while (reader := await self._fresh.oldest_reader(self._pool, since)) is not None:
            if asyncio.get_running_loop().time() > deadline:
                raise _NotNowError(_reader(reader))
            await asyncio.sleep(_CHECK_S)


def _reader(row: asyncpg.Record) -> str:
    return (
        f"session {row['pid']} ({row['application_name'] or 'unnamed'}) reads under an older snapshot; its "
        f"transaction began at {row['xact_start']:%H:%M:%S}. Tried again"
    )
