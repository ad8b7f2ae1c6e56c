"""Every row of "what can be lost" in docs/operations.md, as it is written there: lost, and brought back."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.apart import connected, parts
from support.losses import empty_index, lose_topic
from support.processes import environment, gatelog
from support.reconciling import append, publish
from support.restores import dump, restore
from support.running import running
from support.waiting import until

from gatelog.console.losses import GATE
from gatelog.console.store import examine
from gatelog.core.identity import Identified, ask
from gatelog.core.settings import Settings
from gatelog.indexer.verify import verify
from gatelog.producer import Producer
from gatelog.producer.elsewhere.frontier import FrontierKeeper
from gatelog.reader import Reader

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
STREAMS = ("Note-1", "Note-2", "Other-1")
MODULE = """\
from typing import Annotated
from gatelog.schemas import Event, Indexed

class WayBackPlaced(Event):
    customer: Annotated[str, Indexed()]
"""


def rows() -> dict[str, list[str]]:
    """What is lost, and the commands of its way back."""
    table = DOCUMENT.read_text(encoding="utf-8").partition("## What can be lost")[2].partition("\n\nWhatever")[0]
    cells = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert all(len(row) == 3 for row in cells)
    return {lost.removeprefix("| "): re.findall(r"`gatelog ([^`]+)`", way_back) for lost, way_back, _ in cells}


@dataclass(frozen=True)
class Place:
    settings: Identified
    folder: Path


Lose = Callable[[Place], Awaitable[None]]


def by(statements: str) -> Lose:
    async def lose(place: Place) -> None:
        async with connected(place.settings.dsn) as connection:
            await connection.execute(statements.replace("@", place.settings.store))

    return lose


async def lose_gate(place: Place) -> None:
    async with connected(place.settings.dsn) as connection:
        for row in await connection.fetch(
            "SELECT oid::regclass::text AS name, relkind = 'S' AS is_sequence FROM pg_class "
            "WHERE relnamespace = $1::text::regnamespace AND relname = ANY ($2) AND NOT relispartition",
            place.settings.store,
            list(GATE),
        ):
            await connection.execute(f"DROP {'SEQUENCE' if row['is_sequence'] else 'TABLE'} {row['name']} CASCADE")


async def lose_rows(place: Place) -> None:
    await empty_index(place.settings)


async def lose_topics(place: Place) -> None:
    await lose_topic(place.settings, "Note")


async def restore_older(place: Place) -> None:
    backup = place.folder / "backup.sql"
    await dump(place.settings, backup)
    async with Producer.connect(place.settings) as producer:
        await append(producer, "Note-1", "after the backup")
        await publish(place.settings, await highest(place.settings))
    await restore(place.settings, backup)


async def lose_shard(place: Place) -> None:
    async with connected(place.settings.shard_dsns[0]) as connection:
        await connection.execute(f"DROP SCHEMA {place.settings.store} CASCADE")


BESIDE: Mapping[str, Lose] = {
    "rows of the index": lose_rows,
    "the table of the index, `events`": by("DROP TABLE @.events CASCADE"),
    "tables of gate, outbox or relay": lose_gate,
    "tables of the gate and of the index": by("DROP TABLE @.streams, @.outbox, @.events CASCADE"),
    "views, functions, triggers, indexes, constraints": by(
        "DROP FUNCTION @.refuse_change, @.check_snapshot CASCADE; DROP INDEX @.events_type_position_idx;"
        "ALTER TABLE @.outbox DROP CONSTRAINT outbox_event_id_key; DROP VIEW @.event_log"
    ),
    "indexes on fields of payloads": by("SELECT"),  # they went with the table
    "the tables `schemas` and `schema_levels`": by("DROP TABLE @.schemas, @.schema_levels"),
    "the table `subscriptions`": by("DROP TABLE @.subscriptions"),
    "the table `identity`": by("DROP TABLE @.identity"),
    "tables of projections": by("DROP TABLE @.projection_builds, @.projection_offsets CASCADE"),
    "topics, all or some, or their ends": lose_topics,
    "all of Postgres: gate, outbox, index": by("DROP SCHEMA @ CASCADE"),
    "Postgres, but a backup is there": restore_older,
}
APART: Mapping[str, Lose] = {
    "the gate, and its index is in other databases": by("DROP SCHEMA @ CASCADE"),
    "a database of an index that is elsewhere": lose_shard,
}
ELSEWHERE = {"grants", "topics and index together"}  # the first one in test_roles; there is no command for the other


def test_the_document_has_no_row_that_is_not_run() -> None:
    assert rows().keys() == BESIDE.keys() | APART.keys() | ELSEWHERE


async def highest(settings: Settings) -> int:
    """How many events there are: those are their positions."""
    async with Reader.connect(settings) as reader:
        return sum([await reader.version(stream) for stream in STREAMS])


async def contents(settings: Settings) -> dict[str, list[object]]:
    async with Reader.connect(settings) as reader:
        return {stream: [(e.version, e.id, e.data) async for e in reader.stream(stream)] for stream in STREAMS}


async def go_back(place: Place, commands: list[str]) -> None:
    for command in commands:
        arguments = [str(place.settings.store_id) if word == "ID" else word for word in command.split()]
        done = await asyncio.to_thread(gatelog, arguments, environment(place.settings), place.folder)
        assert done.returncode == 0, (command, done.stdout, done.stderr)


async def come_back(place: Place, lost: str, lose: Lose, publish_all: Callable[[], Awaitable[None]]) -> None:
    """Lose it, run the commands, and see that all is there, and that the store goes on."""
    before = await contents(place.settings)
    await lose(place)
    commands = rows()[lost]
    await go_back(place, commands)
    verified = await verify(place.settings, lambda *_: None)
    assert verified.agree, (lost, verified.examples)
    found = await examine(place.settings)
    assert all(each.is_whole and not each.next_steps for each in found), lost
    after = await contents(place.settings)
    assert {stream: after[stream][: len(events)] for stream, events in before.items()} == before, lost
    if any("reconcile" in command or "republish" in command for command in commands):
        async with Producer.connect(place.settings) as producer:
            await append(producer, "Note-1", lost)
        await publish_all()


async def test_losses(settings: Identified, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "events.py").write_text(MODULE, encoding="utf-8")
    place = Place(settings, tmp_path)

    async def published() -> None:
        await publish(settings, await highest(settings))

    async with Producer.connect(settings) as producer:
        for stream in STREAMS:
            await append(producer, stream, "a", "b")
    await published()
    await go_back(place, ["schema copy --to schemas.json", "index fields shop.events"])
    for lost, lose in BESIDE.items():
        await come_back(place, lost, lose, published)
        if lost == "indexes on fields of payloads":
            async with connected(settings.dsn) as connection:
                assert (
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND indexname LIKE 'events_field_%'",
                        settings.store,
                    )
                    == 1
                )


async def test_losses_with_the_index_elsewhere(apart: Settings, tmp_path: Path) -> None:
    place = Place(await ask(apart, "test"), tmp_path)

    async def published() -> None:
        wanted = await highest(apart)
        keeper = FrontierKeeper(apart)

        async def is_whole() -> bool:
            return await keeper.reach() >= wanted

        async with running(*parts(apart)):
            await until(is_whole, f"position {wanted} is in the index")

    async with Producer.connect(apart) as producer:
        for stream in STREAMS:
            await append(producer, stream, "a", "b")
    await published()
    await go_back(place, ["schema copy --to schemas.json"])
    for lost, lose in APART.items():
        await come_back(place, lost, lose, published)
