"""The index is rebuilt beside the live one and takes its place, while it is read, written and appended to."""

import asyncio
import json
from datetime import datetime
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from support.kafka import records_of
from support.losses import delete_topic, empty_index, write
from support.models import Noted
from support.processes import background, environment, gatelog
from support.reconciling import append, publish
from support.running import running
from support.waiting import until
from support.watching import PAUSE_S, Watch

from gatelog.core import postgres
from gatelog.core.errors import RebuildRefusedError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.indexer.fresh import Fresh
from gatelog.indexer.rebuild import rebuild
from gatelog.producer import ANY, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


def silent(_stage: str, _done: int, _total: int) -> None:
    pass


async def objects(connection: "asyncpg.Connection[asyncpg.Record]", store: str) -> set[tuple[str, str]]:
    """Everything about the table of events and its views that a rebuild must leave as it was."""
    rows = await connection.fetch(
        """
        SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = $1 AND tablename = 'events'
        UNION ALL SELECT 'constraint', conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = format('%I.events', $1)::regclass
        UNION ALL SELECT 'statistics', pg_get_statisticsobjdef(oid) FROM pg_statistic_ext
            WHERE stxrelid = format('%I.events', $1)::regclass
        UNION ALL SELECT 'comment', indexrelid::regclass || obj_description(indexrelid, 'pg_class') FROM pg_index
            WHERE indrelid = format('%I.events', $1)::regclass AND obj_description(indexrelid, 'pg_class') IS NOT NULL
        UNION ALL SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger
            WHERE tgrelid = format('%I.events', $1)::regclass
        UNION ALL SELECT 'view', viewname || ' ' || definition FROM pg_views WHERE schemaname = $1
        UNION ALL SELECT 'grant', table_name || ' ' || grantee || ' ' || privilege_type
            FROM information_schema.role_table_grants WHERE table_schema = $1
        UNION ALL SELECT 'column grant', table_name || ' ' || column_name || ' ' || grantee || ' ' || privilege_type
            FROM information_schema.column_privileges WHERE table_schema = $1
        UNION ALL SELECT 'storage', attname || ' ' || attstorage::text FROM pg_attribute
            WHERE attrelid = format('%I.events', $1)::regclass AND attnum > 0
        """,
        store,
    )
    return {(row[0], row[1]) for row in rows}


async def schemas_of(connection: "asyncpg.Connection[asyncpg.Record]", store: str) -> list[str]:
    rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE $1", f"{store}%")
    return [row[0] for row in rows]


async def test_reads_appends_and_indexing_go_on_while_the_index_is_switched(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    role = f"{settings.store}_role"
    await connection.execute(f"CREATE ROLE {role}")
    await connection.execute(
        f"CREATE INDEX events_of_ours ON {settings.store}.events ((data_json ->> 'text'));"
        f"CREATE STATISTICS {settings.store}.of_ours ON stream, type FROM {settings.store}.events;"
        f"COMMENT ON INDEX {settings.store}.events_of_ours IS 'it''s ours';"
        f"CREATE VIEW {settings.store}.ours WITH (security_barrier) AS SELECT position FROM {settings.store}.events;"
        f"GRANT SELECT ON {settings.store}.events TO {role}; GRANT SELECT ON {settings.store}.event_log TO PUBLIC;"
        f"GRANT UPDATE (data_json) ON {settings.store}.events TO {role}"
    )
    counts: dict[str, int] = {}
    stop = asyncio.Event()

    async def keep_appending() -> None:
        nth = 0
        while not stop.is_set():
            stream = f"Note-{nth % 7}"
            done = await producer.append(stream, [Noted(text=str(nth))] * 3, expected_version=ANY)
            counts[stream] = done.version
            nth += 1
            await asyncio.sleep(PAUSE_S)

    services = (Relay(settings), OutboxKeeper(settings), Indexer(settings), Indexer(settings))
    try:
        async with running(*services), Reader.connect(settings) as reader:
            appending = asyncio.create_task(keep_appending())

            async def has_grown() -> bool:
                return await reader.frontier() > 100

            await until(has_grown, "there is something to rebuild")
            before = await objects(connection, settings.store)
            oid = await connection.fetchval(f"SELECT '{settings.store}.events'::regclass::oid")
            async with Watch(settings, counts).watching():
                done = await rebuild(settings, silent)
                assert done.frontier >= 100
                assert await connection.fetchval(f"SELECT '{settings.store}.events'::regclass::oid") != oid
                await rebuild(settings, silent)
            stop.set()
            await appending
            total = sum(counts.values())

            async def is_indexed() -> bool:
                return await reader.frontier() == total

            await until(is_indexed, f"the live indexers go on, up to {total}")
            assert await objects(connection, settings.store) == before
            assert await schemas_of(connection, settings.store) == [settings.store]
            assert await connection.fetchval(f"SELECT count(*) FROM {settings.store}.ours") == total
            assert await connection.fetchval(f"SELECT count(*) FROM {settings.store}.unreadable_records") == 0
        for change in ("UPDATE {}.events SET stream = 'x'", "DELETE FROM {}.events", "TRUNCATE {}.events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="immutable"):
                await connection.execute(change.format(settings.store))
    finally:
        stop.set()
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def judge(settings: Settings) -> None:
    """The index holds what Kafka does, each event once, up to the frontier."""
    records = sorted(await asyncio.to_thread(records_of, settings), key=lambda record: record.position)
    async with Reader.connect(settings) as reader:
        assert await reader.frontier() == len(records)
        found = [(event.position, event.id, event.stream, event.raw) async for event in reader.all()]
    assert found == [(r.position, r.event_id, r.key, r.value[5:]) for r in records]


async def test_a_lost_index_is_rebuilt_by_processes_that_are_killed(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    """The rows are gone, the offsets are not: an indexer would go on behind the hole."""
    for nth in range(4):
        await producer.append(f"Note-{nth}", [Noted(text=str(n)) for n in range(500)], expected_version=0)
    await publish(settings, 2_000)
    await empty_index(settings)
    env = environment(settings, GATELOG_INDEX_ROWS_MAX="20")
    fresh = f"{settings.store}_rebuild"

    async def rows() -> int:
        if await connection.fetchval("SELECT to_regclass($1)", f"{fresh}.events") is None:
            return 0
        return int(await connection.fetchval(f"SELECT count(*) FROM {fresh}.events"))

    async def has_more_than(before: int) -> bool:
        return await rows() > before

    before = 0
    for _ in range(2):
        with background(["index", "rebuild"], env, tmp_path / "rebuild.log") as process:
            await until(partial(has_more_than, before), "it has begun")
            process.kill()
        kept = await rows()
        assert kept >= before, "what was stored is not read again"
        before = kept
    done = await asyncio.to_thread(gatelog, ["index", "rebuild", "--json"], environment(settings), tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["resumed"], report["frontier"], report["highest"]) == (True, 2_000, 2_000)
    assert report["records"] <= 2_000 - before
    await judge(settings)
    again = await producer.append("Note-0", [Noted(text="x")], expected_version=500)
    async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:
        assert await reader.indexed(again.event_ids) == [2_001]


async def test_a_rebuild_that_would_lose_events_is_refused(settings: Settings) -> None:
    """Kafka lacks what the live index holds: it stays, and the positions are named."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
        await append(producer, "Other-1", *"de")
        await publish(settings, 5)
        await asyncio.to_thread(delete_topic, settings, "Note")
        with pytest.raises(RebuildRefusedError, match=r"holds 3 events at positions 1 to 3, which Kafka does not"):
            await rebuild(settings, silent)
        async with Reader.connect(settings) as reader:
            assert [event.position async for event in reader.all()] == [1, 2, 3, 4, 5]


async def test_records_that_repeat_others_are_set_aside_in_a_rebuild_too(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Copies, and lies: the live index knows which event is at a position, and the gate what was given."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", *"abc")
        await publish(settings, 3)
    ours = await asyncio.to_thread(records_of, settings)
    lies = [ours[0].headers, {**ours[0].headers, "ce_position": "9"}, {**ours[0].headers, "ce_position": "2"}]
    await asyncio.to_thread(write, settings, ours[0], lies)
    done = await rebuild(settings, silent)
    assert (done.frontier, done.highest, done.unreadable) == (3, 3, 2)
    await judge_positions(settings, 3)
    reasons = await connection.fetch(f"SELECT reason FROM {settings.store}.unreadable_records ORDER BY reason")
    assert [("not given" in row["reason"], "another event" in row["reason"]) for row in reasons] == [
        (True, False),
        (False, True),
    ]


async def judge_positions(settings: Settings, upto: int) -> None:
    async with Reader.connect(settings) as reader:
        assert [event.position async for event in reader.all()] == list(range(1, upto + 1))


async def test_a_switch_waits_for_a_reader_whose_snapshot_is_older_than_the_fresh_index(
    settings: Settings, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(producer, "Note-1", *"abc")
    await publish(settings, 3)
    own = await asyncpg.connect(settings.dsn)
    read = f"SELECT position FROM {settings.store}.indexed_events WHERE stream = 'Note-1' ORDER BY version"
    waits = asyncio.Event()
    look = Fresh.oldest_reader

    async def oldest_reader(self: Fresh, pool: postgres.Pool, since: datetime) -> asyncpg.Record | None:
        found = await look(self, pool, since)
        if found is not None:
            waits.set()
        return found

    monkeypatch.setattr(Fresh, "oldest_reader", oldest_reader)
    try:
        async with own.transaction(isolation="repeatable_read"):
            await own.fetchval("SELECT 1")  # it has its snapshot, and has read nothing of gatelog's
            rebuilding = asyncio.create_task(rebuild(settings, silent))
            waiting = asyncio.create_task(waits.wait())
            await asyncio.wait({rebuilding, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            assert [row["position"] for row in await own.fetch(read)] == [1, 2, 3]
        assert (await rebuilding).frontier == 3
        assert [row["position"] for row in await own.fetch(read)] == [1, 2, 3]
    finally:
        own.terminate()
