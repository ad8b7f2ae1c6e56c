"""From one registry to another: every schema keeps its id, so that what is stored stays readable."""

from collections.abc import Sequence
from dataclasses import dataclass

from gatelog.core.errors import SchemaError
from gatelog.schemas.definitions import same
from gatelog.schemas.registry import RegisteredSchema, Registry


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
    names = await source.subjects() if subjects is None else list(subjects)
    found: list[RegisteredSchema] = []
    for name in names:
        versions = await source.versions(name)
        if not versions:
            raise SchemaError(f"There is no subject {name!r} to copy.")
        found += versions
    _see_that_ids_differ(found)
    if dry_run:
        return Copied(len(names), len(found), None)
    new = await target.take_over(found)
    await _verify(target, found)
    for name in names:
        if (level := await source.level(name)) is not await target.level(name):
            await target.set_level(level, name)
    return Copied(len(names), len(found), new)


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
