"""The grants in the documentation are enough for a program that appends and reads, and for `gatelog run`."""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr
from support.apart import connected
from support.databases import sharded
from support.models import Noted
from support.reconciling import repair
from support.running import running
from support.waiting import until

from gatelog.console.store import bring_up, initialise
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.producer.elsewhere.frontier import FrontierKeeper
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader

_OF_INDEX = {  # the text says so
    "migrations", "index_offsets", "index_frontier_log", "events", "unreadable_records",
    "kept_records", "index_topics", "cursor_key",
    "indexed_offsets"
}  # fmt: skip
DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def as_role(settings: Settings, role: str) -> Settings:
    """Settings by which every connection, to the gate and to the index, is that role's."""
    own = [urlsplit(dsn) for dsn in (settings.dsn, *settings.shard_dsns)]
    dsns = [SecretStr(at._replace(netloc=f"{role}:{role}@{at.hostname}:{at.port}").geturl()) for at in own]
    return settings.model_copy(update={"postgres_dsn": dsns[0], "index_dsns": tuple(dsns[1:])})


def documented(settings: Settings, tag: str) -> list[str]:
    """The statements of the document, for this store and our own roles: for the gate, more for it, for the index."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("### Roles")[2].partition("\n### ")[0]
    blocks = [block.replace("gatelog", settings.store) for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) == 3
    return [re.sub(r"\b(app|worker)\b(?=[,;])", rf"\g<1>{tag}", block) for block in blocks]


@asynccontextmanager
async def roles(
    settings: Settings, *, loads: bool = True
) -> AsyncIterator[tuple[Settings, Settings, Callable[[], Awaitable[None]]]]:
    """Roles that have what the documentation grants, and nothing else: app and worker; and what grants it again."""
    tag = secrets.token_hex(4)
    gate, more, index = documented(settings, tag)
    if not loads:
        gate = "\n".join(line for line in gate.splitlines() if "only for bulk loads" not in line)
    grants = {settings.dsn: [gate]}
    if settings.index_dsns:
        replaced = r"GRANT [^;]*?(index_offsets|indexed_offsets|\.events|kept_records|cursor_key)[^;]*;"
        grants = {settings.dsn: [re.sub(replaced, _without_index, gate), more], settings.shard_dsns[0]: [index]}
    async with connected(settings.dsn) as connection:
        for role in ("app", "worker"):
            await connection.execute(f"CREATE ROLE {role}{tag} LOGIN PASSWORD '{role}{tag}'")

    async def grant() -> None:
        for dsn, texts in grants.items():
            async with connected(dsn) as connection:
                for text in texts:
                    await connection.execute(text)

    await grant()
    try:
        yield as_role(settings, f"app{tag}"), as_role(settings, f"worker{tag}"), grant
    finally:
        for dsn in reversed(grants):
            async with connected(dsn) as connection:
                await connection.execute(f"DROP OWNED BY app{tag}, worker{tag}")
        async with connected(settings.dsn) as connection:
            await connection.execute(f"DROP ROLE app{tag}, worker{tag}")


def _without_index(grant: re.Match[str]) -> str:
    tables = [name for name in re.findall(r"\w+\.(\w+)", grant[0]) if name not in _OF_INDEX]
    if not tables:
        return ""
    before, after = grant[0].split(" ON ")[0], grant[0].split(" TO ")[1]
    store = re.findall(r"(\w+)\.\w+", grant[0])[0]
    return f"{before} ON {', '.join(f'{store}.{name}' for name in tables)} TO {after}"


async def test_the_documented_grants_are_enough(settings: Settings) -> None:
    async with roles(settings) as (app, worker, _):
        await _go_the_whole_way(app, worker)


async def test_tables_that_were_lost_have_lost_their_grants(settings: Settings) -> None:
    """`gatelog init` names the roles; the documented statements, run again, are enough."""
    async with roles(settings) as (app, worker, grant):
        async with connected(settings.dsn) as connection:
            await connection.execute(f"DROP TABLE {settings.store}.events, {settings.store}.streams CASCADE")
        (done,) = await bring_up(settings)
        names = [urlsplit(own.dsn).username for own in (app, worker)]
        assert (
            done.next_steps[-1]
            == f"What was made anew has no grants. Run those of {', '.join(map(str, names))} again."
        )
        await repair(settings)
        await grant()
        await _go_the_whole_way(app, worker)


async def test_the_documented_grants_are_enough_with_the_index_elsewhere(
    bare_settings: Settings, spare_dsns: list[str]
) -> None:
    async with sharded(bare_settings, spare_dsns[:1]) as settings:
        await initialise(settings)
        async with roles(settings) as (app, worker, _):
            await _go_the_whole_way(app, worker)


async def _go_the_whole_way(app: Settings, worker: Settings) -> None:
    rotating = worker.model_copy(update={"outbox_segment_events": 1})
    frontier = [FrontierKeeper(worker)] if worker.index_dsns else []
    async with (
        Producer.connect(app) as producer,
        Reader.connect(app) as reader,
        connected(rotating.dsn) as own,
    ):
        keeper = OutboxKeeper(rotating)
        steps: set[str | None] = set()

        async def is_emptied() -> bool:
            steps.add(await keeper.run_once(own))
            return "emptied" in steps

        async with running(Relay(worker), Indexer(worker), *frontier):
            await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
            await producer.close_stream("Note-1", expected_version=1)
            await producer.load([HistoricEvent("Note-2", 1, Noted(text="b"))])
            done = await producer.append("Note-2", [Noted(text="c")], expected_version=ANY)
            await reader.indexed(done.event_ids)
            assert [event.version async for event in reader.stream("Note-1")] == [1, 2]
            assert len((await reader.all().page(2)).events) == 2
            await until(is_emptied, "a segment of the outbox is emptied")


async def test_a_program_that_appends_can_change_nothing_that_was_stored(settings: Settings) -> None:
    """It tries what its grants are near to. What it may do to its own streams: see the document."""
    async with roles(settings, loads=False) as (app, _worker, _), Producer.connect(app) as producer:
        await producer.append("Note-1", [Noted(text="a")], expected_version=ANY)
        async with connected(app.dsn) as connection:
            for statement in _refused(settings.store):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        assert (await producer.append("Note-1", [Noted(text="b")], expected_version=1)).version == 2


def _refused(store: str) -> list[str]:
    sequences = ("outbox_id", "outbox_segment", "outbox_emptied", "outbox_floor")
    tables = ("outbox", "outbox_0", "events", "schemas", "relay_log", "outbox_state", "index_offsets")
    columns = "segment, id, stream, version, event_id, type, schema_id, recorded_at, data"
    values = "0, 1, 'Note-1', 2, gen_random_uuid(), 'x', 1, now(), ''"
    return [
        *(f"SELECT setval('{store}.{name}', 1)" for name in sequences),
        *(f"DELETE FROM {store}.{name}" for name in tables),
        *(f"TRUNCATE {store}.{name}" for name in (*tables, "streams")),
        f"UPDATE {store}.outbox SET version = 7",
        f"UPDATE {store}.outbox_state SET drained_at = now()",
        f"UPDATE {store}.streams SET stream = 'Note-2'",
        f"INSERT INTO {store}.outbox ({columns}, txid) VALUES ({values}, '3')",
        f"INSERT INTO {store}.events (position) VALUES (1)",
        f"SELECT {store}.rotate_outbox(1, '0s')",
        f"ALTER TABLE {store}.outbox DISABLE TRIGGER ALL",
        f"DROP FUNCTION {store}.check_snapshot() CASCADE",
        f"CREATE TABLE {store}.more ()",
        "SET session_replication_role = replica",
    ]
