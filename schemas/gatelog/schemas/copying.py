"""From one registry to another, or to a file and back: schemas keep their ids, and what is stored stays readable."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatelog.core.errors import SchemaError
from gatelog.schemas import schema_file
from gatelog.schemas.definitions import same
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import RegisteredSchema, Registry
from gatelog.schemas.schema_file import Contents


@dataclass(frozen=True)
class Copied:
    """What a copy found, and how much of it was new to the target; ``new`` is None after a dry run."""

    subjects: int
    schemas: int
    new: int | None


async def copy(
    source: Registry, target: Registry, subjects: Sequence[str] | None = None, *, dry_run: bool = False
) -> Copied:
    """Copy the schemas of ``subjects`` (None: all) under their ids and versions, and the subjects' levels.

    All or none; what is there already as the same is left as it is. Afterwards the target is asked for each id.

    Raises:
        SchemaError: a subject is unknown, or the target has an id or version as something else, or keeps no ids.
    """
    names, found = await _found(source, subjects)
    copied = await _put(target, found, dry_run=dry_run)
    for name in [] if dry_run else names:
        if (level := await source.level(name)) is not await target.level(name):
            await target.set_level(level, name)
    return copied


async def save(
    source: PostgresRegistry, path: Path, subjects: Sequence[str] | None = None, *, dry_run: bool = False
) -> Copied:
    """Write the schemas of ``subjects`` (None: all) to a file, with the levels that are set.

    Raises:
        SchemaError: a subject is unknown, or the file that is there holds what would be gone then.
        InvalidInputError: the file cannot be written.
    """
    names, found = await _found(source, subjects)
    levels = await source.levels()
    _see_that_none_goes(path, found)
    if not dry_run:
        kept = levels if subjects is None else {name: level for name, level in levels.items() if name in names}
        schema_file.write(path, Contents(found, kept))
    return Copied(len(names), len(found), None if dry_run else len(found))


async def restore(
    path: Path, target: PostgresRegistry, subjects: Sequence[str] | None = None, *, dry_run: bool = False
) -> Copied:
    """Bring the schemas of ``subjects`` (None: all) back from a file, under their ids and versions, and the levels.

    All or none; what is there already as the same is left as it is.

    Raises:
        SchemaError: a subject is not in the file, or an id or version is taken by something else.
        InvalidInputError: the file cannot be read.
    """
    contents = schema_file.read(path)
    there = {schema.subject for schema in contents.schemas}
    if missing := sorted(set(subjects or ()) - there):
        raise SchemaError(f"There is no subject {missing[0]!r} to copy.")
    wanted = [each for each in contents.schemas if subjects is None or each.subject in subjects]
    copied = await _put(target, wanted, dry_run=dry_run)
    for name, level in {} if dry_run else contents.levels.items():
        if subjects is None or name in subjects:
            await target.set_level(level, name or None)
    return copied


async def _found(source: Registry, subjects: Sequence[str] | None) -> tuple[list[str], list[RegisteredSchema]]:
    names = await source.subjects() if subjects is None else list(subjects)
    found: list[RegisteredSchema] = []
    for name in names:
        versions = await source.versions(name)
        if not versions:
            raise SchemaError(f"There is no subject {name!r} to copy.")
        found += versions
    return names, found


async def _put(target: Registry, found: Sequence[RegisteredSchema], *, dry_run: bool) -> Copied:
    _see_that_ids_differ(found)
    subjects = len({schema.subject for schema in found})
    if dry_run:
        return Copied(subjects, len(found), None)
    new = await target.take_over(found)
    await _verify(target, found)
    return Copied(subjects, len(found), new)


def _see_that_none_goes(path: Path, found: Sequence[RegisteredSchema]) -> None:
    """Schemas are never removed: a store that lacks some of an older copy has lost them, or is another one."""
    there = {schema.id: schema for schema in found}
    for old in schema_file.read(path).schemas if path.exists() else []:
        new = there.get(old.id)
        if new is None or not same(new.definition, old.definition):
            raise SchemaError(
                f"File {path} holds schema id {old.id} ({old.subject} version {old.version}), which what is to be "
                "copied does not. The file was left as it is; name another one, or remove it."
            )


def _see_that_ids_differ(schemas: Sequence[RegisteredSchema]) -> None:
    """A server gives one id to equal schemas of several subjects; here a subject is an event type."""
    by_id: dict[int, RegisteredSchema] = {}
    for schema in schemas:
        other = by_id.setdefault(schema.id, schema)
        if other is not schema:
            raise SchemaError(
                f"Schema id {schema.id} belongs to {other.subject} and to {schema.subject}. Copy one of them: name "
                "the event types with --subject."
            )


async def _verify(target: Registry, schemas: Sequence[RegisteredSchema]) -> None:
    there = await target.load({schema.id for schema in schemas})
    for schema in schemas:
        found = there.get(schema.id)
        if found is None or not same(found.definition, schema.definition):
            raise SchemaError(
                f"After the copy, id {schema.id} is not {schema.subject} version {schema.version} in the target. "
                "Do not use it for this store."
            )
