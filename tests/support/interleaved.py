"""The store's own code as actors (see ``interleaving``), a log in memory for Kafka, and a judge of the outcome."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from gatelog.core import asking, tail
from gatelog.core.domain import ExpectedVersion, topic_of
from gatelog.core.errors import GatelogError, RelayFencedError
from gatelog.core.identity import Identified
from gatelog.indexer.batches import Batch
from gatelog.indexer.rows import row_of
from gatelog.indexer.writing import PartitionLostError, Writer
from gatelog.producer import ANY
from gatelog.producer.doorbell import Doorbell
from gatelog.producer.gate import EncodedEvent, HistoricWrite, StreamWrite, Writes
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.postgres_gate import PostgresGate, prepare_session
from gatelog.producer.relay import recovery
from gatelog.producer.relay.records import records_of
from gatelog.producer.relay.ticks import Tick, Ticks
from gatelog.reader.source import PostgresSource
from gatelog.schemas.envelope import Record, parse_record
from support.interleaving import Stepped, rest, step

if TYPE_CHECKING:  # generic in the type stubs only
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Pool, Connection = asyncpg.Pool, asyncpg.Connection

CATEGORY: Final = "Note"
ROWS_MAX: Final = 1_000
_DATA: Final = b"\x02x"


class Log:
    """What Kafka is to relay and indexer: committed records in order, and one producer that may add to them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._producer: object = None

    def fence(self, producer: object) -> None:
        """Refuse every producer before this one."""
        self._producer = producer

    def commit(self, producer: object, records: Sequence[Record]) -> None:
        """Add the records of a transaction, all or nothing."""
        if producer is not self._producer:
            raise RelayFencedError("another producer has the transactional id")
        self.records += records

    @property
    def position(self) -> int:
        """The highest position."""
        return max((record.position for record in self.records), default=0)


@dataclass(slots=True)
class Acknowledged:
    """An append that was answered, and the steps of the run between which that was."""

    ids: dict[UUID, str]  # and their streams
    sent_at: int
    answered_at: int


@dataclass
class World:
    """One store that is set back before each run."""

    settings: Identified
    control: Connection
    connections: dict[str, Connection]  # of relays and keepers, by actor
    pools: dict[str, Pool]  # of the others, one connection each
    log: Log = field(default_factory=Log)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    lost: dict[UUID, str] = field(default_factory=dict)  # what only the log holds at the beginning, and the streams
    clock: int = 0

    def __post_init__(self) -> None:
        self.topic = topic_of(self.settings.store, CATEGORY)
        self._table = f'"{self.settings.store}".'

    # --- the same beginning each time --------------------------------------------------------------

    async def keep_beginning(self) -> None:
        """Remember the tables as they are now: ``reset`` brings them back."""
        await self.control.execute(_KEEP.replace("@store", self.settings.store))

    async def reset(self) -> None:
        """Set tables, log and what was acknowledged back."""
        await self.control.execute(f'SELECT "{self.settings.store}_kept".reset()')
        self.log = Log()
        self.acknowledged, self.lost = [], {}
        self.clock = 0

    # --- actors --------------------------------------------------------------------------------------

    def gate(self, actor: str) -> PostgresGate:
        pool = self.pools[actor]
        return PostgresGate(self.settings, pool, Doorbell(pool, self.settings.store))

    async def append(self, actor: str, *writes: tuple[str, int, ExpectedVersion], ids: Sequence[UUID] = ()) -> None:
        """Append as a producer does: by ``plain`` or ``plain_one``, to several streams by the function ``append``."""
        append, made = _writes(writes, ids)
        sent_at = self._now()
        gate = self.gate(actor)
        (verdict,) = await gate.append([append], patient=True)
        await gate.close()
        if isinstance(verdict, list):
            self.acknowledged.append(Acknowledged(made, sent_at, self._now()))
        else:
            assert isinstance(verdict, GatelogError), verdict

    async def append_within(self, actor: str, *writes: tuple[str, int, ExpectedVersion]) -> None:
        """Append in a caller's transaction."""
        append, made = _writes(writes)
        sent_at = self._now()
        async with self.pools[actor].acquire() as connection, connection.transaction():
            try:
                await self.gate(actor).append_within(connection, append)
            except GatelogError:
                return
            rest()
        self.acknowledged.append(Acknowledged(made, sent_at, self._now()))

    async def load(self, actor: str, stream: str, count: int) -> None:
        """Load history."""
        (write,), made = _writes([(stream, count, ANY)])
        chunk = [
            HistoricWrite(stream, version, datetime.now(UTC), *event) for version, event in enumerate(write.events, 1)
        ]
        sent_at = self._now()
        try:
            await self.gate(actor).load(chunk)
        except GatelogError:
            return
        self.acknowledged.append(Acknowledged(made, sent_at, self._now()))

    async def relay(self, actor: str, turns: int) -> None:
        """Take over, and publish."""
        await self.publish(actor, await self.lead(actor), turns)

    async def lead(self, actor: str) -> Ticks:
        """Take over, and find out in the log what the last relay has done."""
        ticks = Ticks(self.connections[actor], self.settings)
        left = await ticks.take_over()
        await step(f"{actor} fences")
        self.log.fence(ticks)
        position = recovery.certain(left)
        pending = []
        if left["pending_events"] and position == left["position"]:
            tick = await ticks.next()
            assert tick is not None
            pending = [row["event_id"] for row in tick.rows]
        if recovery.published(self._found(left, position), position, pending) > left["position"]:
            ticks.done()
        return ticks

    def _found(self, left: asyncpg.Record, position: int) -> recovery.Found:
        """Return what a relay reads past the last check."""
        (end,) = tail.ends_from_json(left["checked_offsets"]).get(self.topic, [asking.End(0, None)])
        records = self.log.records[end.offset :]
        held = {record.position for record in records}
        missing = [each for each in range(left["checked_position"] + 1, position + 1) if each not in held]
        beyond = {r.position: [(str(r.id), (self.topic, 0, r.position))] for r in records if r.position > position}
        return recovery.Found({}, self.log.position, missing, beyond)

    async def publish(self, actor: str, ticks: Ticks, turns: int) -> None:
        """Take turns as the leader: a tick, or a pause where nothing is due; until another one leads."""
        with suppress(RelayFencedError):
            for _ in range(turns):
                rest()
                tick = await ticks.next()
                await ticks.fix()
                if tick is not None:
                    await step(f"{actor} commits tick {tick.number} to Kafka")
                    self.log.commit(ticks, self._records(tick))
                    ticks.done()
                    ends = {self.topic: [asking.End(len(self.log.records), None)]}
                    await ticks.checked(ticks.position, tail.ends_as_json(ends))
            rest()
            await ticks.fix()

    def _records(self, tick: Tick) -> list[Record]:
        source = self.settings.source
        return [
            parse_record(source, headers, value)
            for _topic, _key, value, headers, *_ in records_of(self.settings.store, source, tick)
        ]

    async def index(self, actor: str, turns: int, rows_max: int = ROWS_MAX) -> None:
        """Index what the log has."""
        writer = Writer(self.pools[actor], self.settings.store)
        for _ in range(turns):
            rest()
            since = await self._next_offset(actor)
            records = self.log.records[since : since + rows_max]
            place = (self.topic, 0)
            batch = Batch([row_of(record, None) for record in records], upto={place: since + len(records)})
            if not records:
                continue
            try:
                await writer.write(batch, {place: since})
            except PartitionLostError:
                continue
            await writer.advance_frontier()

    async def _next_offset(self, actor: str) -> int:
        return int(
            await self.pools[actor].fetchval(
                f"SELECT next_offset FROM {self._table}indexed_offsets WHERE topic = $1", self.topic
            )
        )

    async def rotate(self, actor: str, turns: int) -> None:
        """Take steps of a rotation."""
        keeper = OutboxKeeper(self.settings)
        for _ in range(turns):
            rest()
            try:
                await keeper.run_once(self.connections[actor])
            except asyncpg.DeadlockDetectedError:
                continue  # outside of a run, lock_timeout ends it sooner

    async def read(self, actor: str, stream: str, turns: int = 1) -> None:
        """Read a stream: it is whole, and holds what was acknowledged before."""
        source = PostgresSource(self.settings, self.pools[actor])
        for _ in range(turns):
            before = {id_ for each in self.acknowledged for id_, name in each.ids.items() if name == stream}
            rows = await source.stream(stream, 1, 2**62, ROWS_MAX, backward=False)
            assert [row[1] for row in rows] == list(range(1, len(rows) + 1)), "a read has a hole"
            missing = before - {row[3] for row in rows}
            assert not missing, f"acknowledged before the read began, and not in it: {missing}"

    def _now(self) -> int:
        self.clock += 1
        return self.clock

    # --- the judge -----------------------------------------------------------------------------------

    async def judge(self) -> None:
        """Let everything come to its end, and hold it against what was acknowledged."""
        await self.relay("relay", 8)
        await self.index("indexer", 2)
        await self.rotate("keeper", 6)
        await self.relay("relay", 4)
        log = self.log.records
        assert [record.position for record in log] == list(range(1, len(log) + 1)), "positions are gapless"
        wanted = Counter({event_id for each in self.acknowledged for event_id in each.ids} | self.lost.keys())
        found = Counter(record.id for record in log)
        assert found == wanted, f"lost: {wanted - found}, doubled or never acknowledged: {found - wanted}"
        versions: dict[str, list[int]] = {}
        for record in log:
            versions.setdefault(record.stream, []).append(record.version)
        for stream, numbers in versions.items():
            assert numbers == list(range(1, len(numbers) + 1)), f"{stream}: {numbers}"
        rows = await self.control.fetch(f"SELECT position, event_id FROM {self._table}events ORDER BY position")
        assert [tuple(row) for row in rows] == [(record.position, record.id) for record in log], (
            "the index is the log"
        )
        gate = await self.control.fetch(f"SELECT stream, version FROM {self._table}streams")
        assert {row["stream"]: row["version"] for row in gate} == {name: len(n) for name, n in versions.items()}
        self._judge_time({record.id: record.position for record in log})

    def _judge_time(self, positions: dict[UUID, int]) -> None:
        for first in self.acknowledged:
            for second in self.acknowledged:
                if first.answered_at < second.sent_at:
                    last = max(positions[event_id] for event_id in first.ids)
                    assert last < min(positions[event_id] for event_id in second.ids), (
                        "sent after the answer, earlier"
                    )


@asynccontextmanager
async def world(settings: Identified, *actors: str) -> AsyncIterator[World]:
    """Yield a world with a connection for each actor, and for the judge's ``relay``, ``indexer`` and ``keeper``."""
    store = settings.store
    async with AsyncExitStack() as stack:
        control = await asyncpg.connect(settings.dsn)
        stack.callback(control.terminate)
        connections: dict[str, Connection] = {}
        pools: dict[str, Pool] = {}
        for name in {*actors, "relay", "indexer", "keeper"}:
            if name.startswith(("relay", "keeper")):
                connections[name] = await asyncpg.connect(settings.dsn, connection_class=Stepped)
                stack.callback(connections[name].terminate)
            else:
                pools[name] = await asyncpg.create_pool(
                    settings.dsn,
                    min_size=1,
                    max_size=1,
                    connection_class=Stepped,
                    init=_prepare,
                    reset=_kept_as_it_is,
                )
                stack.callback(pools[name].terminate)
            if name.startswith("relay"):
                await Ticks(connections[name], settings).prepare()
            elif name.startswith("keeper"):
                await connections[name].execute("SET deadlock_timeout = '20ms'")  # it is the one that gives way
        made = World(settings, control, connections, pools)
        await control.execute(
            f"INSERT INTO \"{store}\".index_offsets VALUES ('{made.topic}', 0, 0)",
        )
        await made.keep_beginning()
        stack.push_async_callback(control.execute, f'DROP SCHEMA "{store}_kept" CASCADE')
        yield made


async def _prepare(connection: Connection) -> None:
    await prepare_session(connection)
    await connection.execute("SET lock_timeout = 0")  # the explorer decides how long a lock is held


async def _kept_as_it_is(_connection: object) -> None:
    """What a session has set is meant to stay."""


def _writes(
    writes: Sequence[tuple[str, int, ExpectedVersion]], ids: Sequence[UUID] = ()
) -> tuple[Writes, dict[UUID, str]]:
    left = list(ids)
    made: dict[UUID, str] = {}
    append = []
    for stream, count, expected in writes:
        events = []
        for _ in range(count):
            event_id = left.pop(0) if left else uuid4()
            made[event_id] = stream
            events.append(EncodedEvent(event_id, "Noted", 1, _DATA, None, None, None, None))
        append.append(StreamWrite(stream, expected, tuple(events)))
    return tuple(append), made


# Rows as they were, put back without the triggers that refuse it. Deleted rather than truncated: that takes a tenth.
_KEEP: Final = """
CREATE SCHEMA "@store_kept";
DO $do$
DECLARE
    name text;
    body text := '';
    ends text := '';
BEGIN
    FOR name IN SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = '"@store"'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname NOT IN ('restore_witness', 'migrations')
    LOOP
        EXECUTE format('CREATE TABLE "@store_kept".%I AS TABLE "@store".%I', name, name);
        body := body || format('ALTER TABLE "@store".%I DISABLE TRIGGER ALL; DELETE FROM "@store".%I; '
            'INSERT INTO "@store".%I OVERRIDING SYSTEM VALUE TABLE "@store_kept".%I; ', name, name, name, name);
        ends := ends || format('ALTER TABLE "@store".%I ENABLE TRIGGER ALL; ', name);
    END LOOP;
    FOR name IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = '"@store"'::regnamespace AND c.relkind = 'S'
    LOOP
        EXECUTE format('SELECT format(''PERFORM setval(%%L, %%s, %%L); '', ''"@store".%I'', last_value, is_called) '
            'FROM "@store".%I', name, name) INTO STRICT name;
        ends := ends || name;
    END LOOP;
    ends := ends || 'UPDATE "@store".restore_witness SET xid = pg_current_xact_id();';  -- or it looks restored
    EXECUTE format('CREATE FUNCTION "@store_kept".reset() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN %s %s END $f$',
        body, ends);
END
$do$;
"""
