"""What every registry does: the one in Postgres, and the one in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gatelog.core import postgres
from gatelog.core.errors import IncompatibleSchemaError, SchemaError
from gatelog.core.settings import Settings
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import Compatibility, RegisteredSchema, Registration, Registry
from gatelog.testing.registry import MemoryRegistry


@pytest.fixture
async def registry(real: Settings | None) -> AsyncIterator[Registry]:
    if real is None:
        yield MemoryRegistry()
    else:
        async with postgres.pool(real.dsn, real.store, "test", 4) as pool:
            yield PostgresRegistry(real, pool)


def _record(name: str, *fields: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": field, "type": "string"} for field in fields]}


def _fits(_level: object, _new: object, _versions: object) -> list[str]:
    return []


async def test_versions_are_numbered_and_ids_are_their_own(registry: Registry) -> None:
    first = await registry.register("Placed", _record("Placed", "a"), _fits)
    other = await registry.register("Paid", _record("Paid"), _fits)
    second = await registry.register("Placed", _record("Placed", "a", "b"), _fits)
    assert (first.version, other.version, second.version) == (1, 1, 2)
    assert [first.new, other.new, second.new] == [True, True, True]
    assert len({first.schema_id, other.schema_id, second.schema_id}) == 3
    assert await registry.subjects() == ["Paid", "Placed"]
    assert [s.definition for s in await registry.versions("Placed")] == [
        _record("Placed", "a"),
        _record("Placed", "a", "b"),
    ]
    assert (await registry.latest("Placed")).id == second.schema_id
    assert await registry.versions("Shipped") == []
    with pytest.raises(SchemaError, match="Shipped"):
        await registry.latest("Shipped")


async def test_what_is_there_is_found_and_not_checked_again(registry: Registry) -> None:
    made = await registry.register("Placed", _record("Placed", "a"), _fits)

    def never(_level: object, _new: object, _versions: object) -> list[str]:
        raise AssertionError("asked")

    again = await registry.register("Placed", dict(reversed(_record("Placed", "a").items())), never)
    assert again == Registration(made.schema_id, 1, new=False)
    assert await registry.id_of("Placed", _record("Placed", "a"), register=False) == made.schema_id
    assert await registry.find("Placed", _record("Placed", "b")) is None
    with pytest.raises(SchemaError, match="not registered"):
        await registry.id_of("Placed", _record("Placed", "b"), register=False)


async def test_a_dry_run_says_what_would_be(registry: Registry) -> None:
    dry = await registry.register("Placed", _record("Placed", "a"), _fits, dry_run=True)
    assert dry == Registration(None, 1, new=True)
    assert await registry.subjects() == []


async def test_what_does_not_fit_is_not_registered(registry: Registry) -> None:
    await registry.set_level(Compatibility.FULL, "Placed")
    await registry.register("Placed", _record("Placed", "a"), _fits)
    asked: list[tuple[object, object, object]] = []

    def wrong(level: Compatibility, new: dict[str, Any], versions: Sequence[RegisteredSchema]) -> list[str]:
        asked.append((level, new, [version.version for version in versions]))
        return ["field 'b' has no default"]

    with pytest.raises(IncompatibleSchemaError, match=r"Placed.*FULL.*'b' has no default") as caught:
        await registry.register("Placed", _record("Placed", "b"), wrong)
    assert caught.value.problems == ("field 'b' has no default",)
    assert asked == [(Compatibility.FULL, _record("Placed", "b"), [1])]
    assert len(await registry.versions("Placed")) == 1


async def test_levels_have_a_default_for_all(registry: Registry) -> None:
    assert await registry.level("Placed") is await registry.level() is Compatibility.BACKWARD
    await registry.set_level(Compatibility.NONE, "Placed")
    await registry.set_level(Compatibility.FULL_TRANSITIVE)
    await registry.set_level(Compatibility.FORWARD)
    assert await registry.level("Placed") is Compatibility.NONE
    assert await registry.level("Paid") is await registry.level() is Compatibility.FORWARD


async def test_many_register_at_once_and_each_definition_gets_one_version(registry: Registry) -> None:
    wanted = [_record("Placed", f"f{number % 4}") for number in range(16)]
    found = await asyncio.gather(*(registry.register("Placed", each, _fits) for each in wanted))
    assert sorted(r.version for r in found if r.new) == [1, 2, 3, 4]
    for each, registration in zip(wanted, found, strict=True):
        assert (await registry.load({registration.schema_id or 0}))[registration.schema_id or 0].definition == each


async def test_ids_of_another_registry_are_kept_and_new_ones_lie_above(registry: Registry) -> None:
    theirs = [
        RegisteredSchema(7, "Placed", 2, _record("Placed", "a")),
        RegisteredSchema(900, "Paid", 1, _record("Paid", "a")),
    ]
    assert await registry.take_over(theirs) == 2
    assert await registry.take_over(theirs) == 0
    assert await registry.load({7, 900, 8, 0, -1, 2**31, 2**40}) == {schema.id: schema for schema in theirs}
    made = await registry.register("Placed", _record("Placed", "b"), _fits)
    assert (made.version, made.schema_id) == (3, 901)


async def test_a_taken_id_is_refused_and_nothing_is_taken_over(registry: Registry) -> None:
    made = await registry.register("Placed", _record("Placed", "a"), _fits)
    assert made.schema_id is not None
    theirs = [
        RegisteredSchema(900, "Paid", 1, _record("Paid", "a")),
        RegisteredSchema(made.schema_id, "Placed", 1, _record("Placed", "b")),
    ]
    with pytest.raises(SchemaError, match=f"chema id {made.schema_id}"):
        await registry.take_over(theirs)
    assert await registry.subjects() == ["Placed"]
