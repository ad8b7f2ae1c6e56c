"""What every registry does: the one in Postgres, the one in memory, and a server with Confluent's API."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gatelog.core import postgres
from gatelog.core.errors import IncompatibleSchemaError, SchemaError
from gatelog.core.settings import Settings
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.definitions import same
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registries import registry_of
from gatelog.schemas.registry import Compatibility, RegisteredSchema, Registration, Registry
from gatelog.testing.registry import MemoryRegistry

Opened = Settings | str | None


@pytest.fixture(params=["memory", "postgres", "server"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "postgres":
        settings: Settings = request.getfixturevalue("settings")
        return settings
    return str(request.getfixturevalue("registry_url")) if request.param == "server" else None


@pytest.fixture
async def registry(opened: Opened) -> AsyncIterator[Registry]:
    async with _open(opened) as registry:
        yield registry


@asynccontextmanager
async def _open(opened: Opened) -> AsyncIterator[Registry]:
    if isinstance(opened, Settings):
        async with postgres.pool(opened.dsn, opened.store, "test", 4) as pool:
            registry = registry_of(opened, pool)
            assert isinstance(registry, PostgresRegistry)
            yield registry
    elif isinstance(opened, str):
        yield ConfluentRegistry(Settings.load(registry_url=opened))
    else:
        yield MemoryRegistry()


@pytest.fixture
def placed() -> str:
    """A subject of its own: the server is shared."""
    return f"test.Placed{secrets.token_hex(4)}"


def _record(name: str, *fields: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f, "type": "string", "default": ""} for f in fields]}


def _fits(_level: object, _new: object, _versions: object) -> list[str]:
    return []


async def test_versions_are_numbered_and_ids_are_their_own(registry: Registry, placed: str) -> None:
    paid = f"{placed}.Paid"
    first = await registry.register(placed, _record(placed, "a"), _fits)
    other = await registry.register(paid, _record(paid), _fits)
    second = await registry.register(placed, _record(placed, "a", "b"), _fits)
    assert (first.version, other.version, second.version) == (1, 1, 2)
    assert [first.new, other.new, second.new] == [True, True, True]
    assert len({first.schema_id, other.schema_id, second.schema_id}) == 3
    assert [name for name in await registry.subjects() if name.startswith(placed)] == [placed, paid]
    versions = await registry.versions(placed)
    for schema, definition in zip(versions, [_record(placed, "a"), _record(placed, "a", "b")], strict=True):
        assert same(schema.definition, definition)
    assert await registry.latest(placed) == versions[1]
    assert versions[1].id == second.schema_id
    assert await registry.versions(f"{placed}.Shipped") == []
    with pytest.raises(SchemaError, match="Shipped"):
        await registry.latest(f"{placed}.Shipped")


async def test_what_is_there_is_found_and_not_checked_again(registry: Registry, placed: str) -> None:
    made = await registry.register(placed, _record(placed, "a"), _fits)

    def never(_level: object, _new: object, _versions: object) -> list[str]:
        raise AssertionError("asked")

    again = await registry.register(placed, dict(reversed(_record(placed, "a").items())), never)
    assert again == Registration(made.schema_id, 1, new=False)
    assert await registry.id_of(placed, _record(placed, "a"), register=False) == made.schema_id
    assert await registry.find(placed, _record(placed, "b")) is None
    with pytest.raises(SchemaError, match="not registered"):
        await registry.id_of(placed, _record(placed, "b"), register=False)
    second = await registry.id_of(placed, _record(placed, "b"), register=True)
    assert (await registry.latest(placed)).id == second


async def test_a_dry_run_says_what_would_be(registry: Registry, placed: str) -> None:
    dry = await registry.register(placed, _record(placed, "a"), _fits, dry_run=True)
    assert dry == Registration(None, 1, new=True)
    assert placed not in await registry.subjects()
    await registry.register(placed, _record(placed, "a"), _fits)
    dry = await registry.register(placed, _record(placed, "b"), _fits, dry_run=True)
    assert dry == Registration(None, 2, new=True)
    assert len(await registry.versions(placed)) == 1


async def test_what_does_not_fit_is_not_registered(registry: Registry, placed: str) -> None:
    await registry.register(placed, _record(placed, "a"), _fits)
    await registry.set_level(Compatibility.FULL, placed)
    asked: list[tuple[object, object, object]] = []

    def wrong(level: Compatibility, new: dict[str, Any], versions: Sequence[RegisteredSchema]) -> list[str]:
        asked.append((level, new, [version.version for version in versions]))
        return ["field 'b' has no default"]

    with pytest.raises(IncompatibleSchemaError, match=r"Placed.*FULL.*'b' has no default") as caught:
        await registry.register(placed, _record(placed, "b"), wrong)
    assert caught.value.problems == ("field 'b' has no default",)
    assert asked == [(Compatibility.FULL, _record(placed, "b"), [1])]
    assert len(await registry.versions(placed)) == 1


async def test_many_register_at_once_and_each_definition_gets_one_version(registry: Registry, placed: str) -> None:
    wanted = [_record(placed, f"f{number % 4}") for number in range(8)]
    await asyncio.gather(*(registry.register(placed, each, _fits) for each in wanted))
    versions = await registry.versions(placed)
    assert [schema.version for schema in versions] == [1, 2, 3, 4]
    assert sorted(schema.definition["fields"][0]["name"] for schema in versions) == ["f0", "f1", "f2", "f3"]


async def test_a_schema_is_loaded_by_its_id_and_unknown_ids_are_not_there(opened: Opened, placed: str) -> None:
    async with _open(opened) as registry:
        made = await registry.register(placed, _record(placed, "a"), _fits)
        assert made.schema_id is not None
        again = ConfluentRegistry(Settings.load(registry_url=opened)) if isinstance(opened, str) else registry
        found = await again.load({made.schema_id, 0, -1, 2**31 - 1, 2**31, 2**40})
        assert list(found) == [made.schema_id]
        schema = found[made.schema_id]
        assert (schema.id, schema.subject, schema.version) == (made.schema_id, placed, 1)
        assert same(schema.definition, _record(placed, "a"))


@pytest.mark.parametrize("opened", ["memory", "postgres"], indirect=True)
class TestOwnTables:
    """What a server shared with other tests, or one that does not keep ids, cannot show."""

    async def test_levels_have_a_default_for_all(self, registry: Registry) -> None:
        assert await registry.level("Placed") is await registry.level() is Compatibility.BACKWARD
        await registry.set_level(Compatibility.NONE, "Placed")
        await registry.set_level(Compatibility.FULL_TRANSITIVE)
        await registry.set_level(Compatibility.FORWARD)
        assert await registry.level("Placed") is Compatibility.NONE
        assert await registry.level("Paid") is await registry.level() is Compatibility.FORWARD

    async def test_ids_of_another_registry_are_kept_and_new_ones_lie_above(self, registry: Registry) -> None:
        theirs = [
            RegisteredSchema(7, "Placed", 2, _record("Placed", "a")),
            RegisteredSchema(900, "Paid", 1, _record("Paid", "a")),
        ]
        assert await registry.take_over(theirs) == 2
        assert await registry.take_over(theirs) == 0
        assert await registry.load({7, 900, 8}) == {schema.id: schema for schema in theirs}
        made = await registry.register("Placed", _record("Placed", "b"), _fits)
        assert (made.version, made.schema_id) == (3, 901)

    async def test_a_taken_id_is_refused_and_nothing_is_taken_over(self, registry: Registry) -> None:
        made = await registry.register("Placed", _record("Placed", "a"), _fits)
        assert made.schema_id is not None
        theirs = [
            RegisteredSchema(900, "Paid", 1, _record("Paid", "a")),
            RegisteredSchema(made.schema_id, "Placed", 1, _record("Placed", "b")),
        ]
        with pytest.raises(SchemaError, match=f"chema id {made.schema_id}"):
            await registry.take_over(theirs)
        assert await registry.subjects() == ["Placed"]
