"""Schemas in a file: a backup that needs no `pg_dump`, and comes back under the same ids, with its levels."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.reconciling import append

from gatelog.console.store import bring_up, initialise
from gatelog.core import postgres
from gatelog.core.errors import InvalidInputError, SchemaError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader
from gatelog.schemas.copying import Copied, restore, save
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import Compatibility, RegisteredSchema


def record(name: str, *fields: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f, "type": "string", "doc": "ü"} for f in fields]}


@asynccontextmanager
async def tables(settings: Settings) -> AsyncIterator[PostgresRegistry]:
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        yield PostgresRegistry(settings, pool)


async def fill(registry: PostgresRegistry) -> list[RegisteredSchema]:
    first = [
        RegisteredSchema(7, "Placed", 1, record("Placed")),
        RegisteredSchema(9, "Placed", 2, record("Placed", "note")),
        RegisteredSchema(8, "Paid", 1, record("Paid")),
    ]
    await registry.take_over(first)
    await registry.set_level(Compatibility.FULL)
    await registry.set_level(Compatibility.FULL, "Placed")  # its own, though the default is the same
    await registry.set_level(Compatibility.NONE, "Nobody")
    return first


async def test_schemas_and_levels_come_back_from_a_file(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "schemas.json"
    empty = settings.model_copy(update={"store": f"{settings.store}n"})
    await initialise(empty)
    try:
        async with tables(settings) as full, tables(empty) as target:
            schemas = await fill(full)
            assert await save(full, path) == Copied(2, 3, 3)
            assert [each["id"] for each in json.loads(path.read_text(encoding="utf-8"))["schemas"]] == [7, 8, 9]
            assert await restore(path, target, dry_run=True) == Copied(2, 3, None)
            assert await target.subjects() == []
            assert await restore(path, target) == Copied(2, 3, 3)
            assert await target.load({7, 8, 9}) == {each.id: each for each in schemas}
            assert await target.levels() == await full.levels()
            assert await restore(path, target) == Copied(2, 3, 0)
            made = await target.register("Next", record("Next"), lambda *_: [])
            assert made.schema_id == 10
    finally:
        async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
            await pool.execute(f"DROP SCHEMA {empty.store} CASCADE")


async def test_other_schemas_under_these_ids_are_refused(settings: Settings, tmp_path: Path) -> None:
    """One refusal, nothing changed: neither the tables, nor a file that holds more than would be written over it."""
    path = tmp_path / "schemas.json"
    async with tables(settings) as registry:
        await fill(registry)
        await save(registry, path)
        document = json.loads(path.read_text(encoding="utf-8"))
        document["schemas"][1]["definition"] = record("Paid", "other")
        document["schemas"].append({"id": 20, "subject": "New", "version": 1, "definition": record("New")})
        document["levels"] = {"": "NONE"}
        path.write_text(json.dumps(document), encoding="utf-8")
        before = await registry.levels()
        with pytest.raises(SchemaError, match=r"schema id 8 .*Nothing was taken over"):
            await restore(path, registry)
        assert (await registry.subjects(), await registry.levels()) == (["Paid", "Placed"], before)
        with pytest.raises(SchemaError, match=r"holds schema id 8 .*left as it is"):
            await save(registry, path)
        assert json.loads(path.read_text(encoding="utf-8")) == document
        with pytest.raises(SchemaError, match="no subject 'Nobody'"):
            await restore(path, registry, ["Nobody"])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"levels": {}}', '{"levels": {"": "X"}, "schemas": []}', '{"levels": {}, "schemas": [{}]}'],
)
async def test_what_is_not_such_a_file(settings: Settings, tmp_path: Path, text: str) -> None:
    path = tmp_path / "schemas.json"
    path.write_text(text, encoding="utf-8")
    async with tables(settings) as registry:
        with pytest.raises(SchemaError, match="not a copy of schemas"):
            await restore(path, registry)
        with pytest.raises(InvalidInputError, match="cannot be read"):
            await restore(tmp_path / "none.json", registry)
        with pytest.raises(InvalidInputError, match="cannot be written"):
            await save(registry, tmp_path / "none" / "schemas.json")


async def test_a_lost_table_of_schemas_takes_them_back(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    path = tmp_path / "schemas.json"
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
    async with tables(settings) as registry:
        await save(registry, path)
    await connection.execute(f"DROP TABLE {settings.store}.schemas, {settings.store}.schema_levels")
    await bring_up(settings)
    async with tables(settings) as registry:
        with pytest.raises(SchemaError, match="holds schema id 1"):
            await save(registry, path)  # an empty copy does not replace it
        await restore(path, registry)
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        await append(producer, "Note-1", "b")
        assert [event.schema_id async for event in reader.stream("Note-1")] == [1, 1]
