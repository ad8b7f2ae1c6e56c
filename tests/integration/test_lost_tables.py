"""Tables of a store are lost, or were changed: ``gatelog init`` names them, and there is a way back."""

import asyncpg
import pytest
from support.apart import connected, noted, parts, rotate
from support.models import Noted
from support.reconciling import append, look, publish, refused, repair
from support.running import running
from support.trial import Row
from support.waiting import until

from gatelog.console.losses import GATE, index_is_back
from gatelog.console.store import bring_up, examine, initialise
from gatelog.core.errors import (
    LogMismatchError,
    ReconcileRefusedError,
    StoreAwaitsError,
    StoreNotInitialisedError,
)
from gatelog.core.mending import InitRefusedError
from gatelog.core.settings import Settings
from gatelog.indexer.rebuild import rebuild
from gatelog.indexer.verify import verify
from gatelog.producer import ANY, Producer
from gatelog.producer.elsewhere.frontier import FrontierKeeper
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


LOST = {
    "DROP TABLE @.events CASCADE": {"table events", "view indexed_events", "view event_log"},
    "DROP TABLE @.outbox_1 CASCADE": {"table outbox_1", "view outgoing"},
    "DROP SEQUENCE @.outbox_id CASCADE": {
        "sequence outbox_id", "default outbox.id", "default outbox_0.id", "default outbox_1.id",
    },
    "DROP TABLE @.projection_builds CASCADE": {
        "table projection_builds", "constraint projection_leases.projection_leases_projection_build_fkey",
        "constraint projection_partitions.projection_partitions_projection_build_fkey",
    },
    "DROP TABLE @.migrations": {"table migrations"},
    "DROP FUNCTION @.check_snapshot CASCADE": {"function check_snapshot()", "view pending_events"},
    "DROP INDEX @.outbox_txid_idx": {"index outbox_txid_idx"},
    "ALTER TABLE @.streams DROP CONSTRAINT streams_pkey": {"constraint streams.streams_pkey"},
    "ALTER TABLE @.events DISABLE TRIGGER events_are_immutable": {
        "trigger events.events_are_immutable (was changed)"
    },
    "ALTER SEQUENCE @.outbox_id CACHE 20": {"sequence outbox_id (was changed)"},
    "CREATE OR REPLACE FUNCTION @.restored() RETURNS boolean LANGUAGE sql AS 'SELECT false'": {
        "function restored() (was changed)"
    },
    "CREATE OR REPLACE VIEW @.stream_heads AS SELECT stream, version, true AS closed FROM @.streams": {
        "view stream_heads (was changed)"
    },
}  # fmt: skip


async def test_what_is_lost_or_changed_is_named_and_made_as_it_was(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    for damage, named in LOST.items():
        await connection.execute(damage.replace("@", settings.store))
        (found,) = await examine(settings)
        assert {str(each) for each in found.mended} == named
        (done,) = await bring_up(settings)
        assert ({str(each) for each in done.mended}, done.left) == (named, [])
        (after,) = await examine(settings)
        assert after.is_whole, after
    every = await connection.fetch(
        "SELECT format('DROP TABLE IF EXISTS %s CASCADE', oid::regclass) AS sql FROM pg_class "
        "WHERE relnamespace = $1::text::regnamespace AND relkind IN ('r', 'p')",
        settings.store,
    )
    await connection.execute(";".join(row["sql"] for row in every))
    (done,) = await bring_up(settings)
    assert (done.applied, done.left) == ([], [])
    assert (await examine(settings))[0].is_whole


async def test_what_holds_rows_is_not_changed_back(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await connection.execute(
        f"ALTER TABLE {settings.store}.events ALTER type DROP NOT NULL; ALTER TABLE {settings.store}.events "
        "SET UNLOGGED; CREATE INDEX mine ON " + f"{settings.store}.events (causation_id)"
    )
    (done,) = await bring_up(settings)
    assert [(each.kind, each.name) for each in done.left] == [("table", "events"), ("column", "events.type")]
    assert (done.mended, done.next_steps) == ([], [])


async def test_a_schema_that_is_somebody_elses(bare_settings: Settings) -> None:
    """Its tables stay as they are; beside other ones, the store is new."""
    async with connected(bare_settings.dsn) as connection:
        await connection.execute(f"CREATE SCHEMA {bare_settings.store} CREATE TABLE events (what text)")
        with pytest.raises(InitRefusedError, match=r"events\.position"):
            await initialise(bare_settings)
        assert not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{bare_settings.store}.outbox")
        await connection.execute(f"ALTER TABLE {bare_settings.store}.events RENAME TO meetings")
    assert len(await initialise(bare_settings)) > 4


async def test_the_index_is_lost(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Nothing is read with a hole, and nothing is appended blindly, until a rebuild has filled the new table."""
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        await append(producer, "Note-1", *"abc")
        await publish(settings, 3)
        tables = ["events", "index_offsets", "index_topics", "index_frontier_log", "unreadable_records", "cursor_key"]
        await connection.execute(f"DROP TABLE {', '.join(f'{settings.store}.{name}' for name in tables)} CASCADE")
        with pytest.raises(StoreNotInitialisedError, match=r"indexed_events.* does not exist.*gatelog init"):
            await reader.version("Note-1")
        (done,) = await bring_up(settings)
        assert {each.name for each in done.mended if each.kind == "table"} == set(tables)
        assert done.next_steps[0].startswith("`gatelog index rebuild`")
        with pytest.raises(StoreAwaitsError, match="gatelog index rebuild"):
            await anext(reader.stream("Note-1"))
        with pytest.raises(StoreAwaitsError, match="gatelog index rebuild"):
            await append(producer, "Note-1", "d")
        assert (await rebuild(settings, silent)).frontier == 3
        await index_is_back(settings)
        await append(producer, "Note-1", "d")
        assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3, 4]
        await publish(settings, 4)
    assert (await verify(settings, silent)).agree


@pytest.mark.parametrize("lost", ["streams", "outbox", "relay_log outbox_state outbox_id", "all"])
async def test_tables_of_gate_and_outbox_are_lost(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]", lost: str
) -> None:
    """The relay waits for `gatelog reconcile`; the gate follows Kafka; what the outbox alone had is gone with it."""
    s = settings.store
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        await append(producer, "Note-1", *"abc")
        await append(producer, "Other-1", "x")
        await publish(settings, 4)
        await append(producer, "Note-1", "unpublished")
        await append(producer, "Note-2", "unpublished")
        for name in GATE - {"stored_ids"} if lost == "all" else lost.split():
            kind = await connection.fetchval(
                "SELECT relkind = 'S' FROM pg_class WHERE oid = to_regclass($1)", f"{s}.{name}"
            )
            if kind is not None:
                await connection.execute(f"DROP {'SEQUENCE' if kind else 'TABLE'} {s}.{name} CASCADE")
        (done,) = await bring_up(settings)
        assert (done.left, [step[:27] for step in done.next_steps]) == ([], ["`gatelog reconcile --apply`"])
        for attempt in (append(producer, "Note-1", "x"), anext(reader.stream("Note-1"))):
            with pytest.raises(StoreAwaitsError, match="gatelog reconcile --apply"):
                await attempt
        with pytest.raises(LogMismatchError, match="gatelog reconcile"):
            await refused(settings)
        assert not (await look(settings)).agree
        await repair(settings)
        kept = 0 if lost in {"outbox", "all"} else 1
        assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3, *[4] * kept]
        assert await reader.version("Note-2") == kept
        appended = await producer.append("Note-1", [Noted(text="next")], expected_version=3 + kept)
        assert appended.version == 4 + kept
        await publish(settings, 5 + 2 * kept)
    verified = await verify(settings, silent)
    assert verified.agree, verified.examples


async def test_a_segment_is_lost_and_what_follows_it_is_not(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Versions have no gaps: what was appended behind events that are gone is handed over, and not published."""
    cutting = OutboxKeeper(settings.model_copy(update={"outbox_segment_events": 1}))
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await append(producer, "Note-1", "lost")
        assert await cutting.run_once(connection) == "cut"
        await append(producer, "Note-1", "behind", "behind")
        await append(producer, "Note-2", "other")
        await connection.execute(f"DROP TABLE {settings.store}.outbox_0 CASCADE")
        await bring_up(settings)
        with pytest.raises(ReconcileRefusedError, match=r"2 events.* lost, .*Note-1@3…4.*--drop-conflicting"):
            await repair(settings)
        dropped: list[asyncpg.Record] = []
        await repair(settings, dropped)
        assert [(row["stream"], row["version"]) for row in dropped] == [("Note-1", 3), ("Note-1", 4)]
        assert (await producer.append("Note-1", [Noted(text="next")], expected_version=1)).version == 2
        await publish(settings, 3)
    assert (await verify(settings, silent)).agree


async def test_a_segment_is_detached_while_a_relay_runs(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The relay reads segments by name: nothing is published before what came earlier in its stream."""
    cutting = OutboxKeeper(settings.model_copy(update={"outbox_segment_events": 1}))
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await append(producer, "Note-1", "unseen")
        assert await cutting.run_once(connection) == "cut"
        await append(producer, "Note-1", "b")
        await connection.execute(f"ALTER TABLE {settings.store}.outbox DETACH PARTITION {settings.store}.outbox_0")
        async with running(Relay(settings)):
            await Row(settings).moves(2)
        (done,) = await bring_up(settings)
        assert ([str(each) for each in done.mended], done.left) == (["partition outbox_0"], [])
        assert done.next_steps[0].startswith("`gatelog reconcile --apply`")
        await repair(settings)
        await publish(settings, 3)
    assert (await verify(settings, silent)).agree


async def test_gate_and_index_are_lost_together(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
        await publish(settings, 3)
        await connection.execute(f"DROP TABLE {settings.store}.events, {settings.store}.streams CASCADE")
        await bring_up(settings)
        await rebuild(settings, silent)
        await index_is_back(settings)
        with pytest.raises(StoreAwaitsError, match="reconcile"):
            await append(producer, "Note-1", "d")
        await repair(settings)
        assert (await producer.append("Note-1", [Noted(text="d")], expected_version=3)).version == 4
        await publish(settings, 4)
    assert (await verify(settings, silent)).agree


async def test_tables_are_lost_and_the_index_is_elsewhere(apart: Settings) -> None:
    """The gate's and the shard's; the gate knows every id again."""
    s = apart.store

    async def indexed(position: int) -> None:
        keeper = FrontierKeeper(apart)

        async def is_whole() -> bool:
            return await keeper.reach() >= position

        async with running(*parts(apart)), connected(apart.dsn) as gate:
            await until(is_whole, f"position {position} is indexed")
            await rotate(apart, gate)

    async with Producer.connect(apart) as producer, Reader.connect(apart) as reader:
        first = noted(1)
        await producer.append("Note-1", first, expected_version=ANY)
        await append(producer, "Note-1", "b")
        await indexed(2)
        async with connected(apart.dsn) as gate, connected(apart.shard_dsns[0]) as shard:
            await gate.execute(f"DROP TABLE {s}.streams, {s}.outbox, {s}.stored_ids, {s}.index_place CASCADE")
            await shard.execute(f"DROP TABLE {s}.events, {s}.index_place CASCADE")
            gate_lacks, shard_lacks = ({each.name for each in one.mended} for one in await examine(apart))
            assert gate_lacks >= {"streams", "outbox", "outbox_0", "stored_ids", "index_place", "indexed_events"}
            assert shard_lacks == {"events", "index_place", "indexed_events", "pending_events", "event_log"}
        for one in await bring_up(apart):
            assert not one.left
        with pytest.raises(StoreAwaitsError, match="reconcile"):
            await append(producer, "Note-1", "x")
        await rebuild(apart, silent)
        await FrontierKeeper(apart).reach()
        await repair(apart)
        assert (await producer.append("Note-1", first, expected_version=ANY)).known
        await append(producer, "Note-1", "c")
        await indexed(3)
        assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3]
    assert (await verify(apart, silent)).agree


async def test_schemas_are_lost(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Nobody may register a schema under another id than the one that stored events name."""
    s = settings.store
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
    await connection.execute(f"DROP TABLE {s}.schemas")
    (done,) = await bring_up(settings)
    assert "gatelog schema copy --from" in done.next_steps[0]
    async with Producer.connect(settings) as producer:
        with pytest.raises(StoreAwaitsError, match="gatelog schema copy --from"):
            await append(producer, "Note-1", "b")
    fresh = settings.model_copy(update={"store": f"{s}n"})
    try:
        await initialise(fresh)
        await connection.execute(f"DROP TABLE {s}n.schemas")
        assert (await bring_up(fresh))[0].next_steps == []  # no event names a schema
        async with Producer.connect(fresh) as producer:
            await append(producer, "Note-1", "a")
    finally:
        await connection.execute(f"DROP SCHEMA {s}n CASCADE")
