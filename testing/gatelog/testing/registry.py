"""Schemas in memory."""

from collections.abc import Iterable

from gatelog.core.errors import IncompatibleSchemaError, SchemaError
from gatelog.schemas.checking import problems
from gatelog.schemas.definitions import same
from gatelog.schemas.registry import (
    DEFAULT_LEVEL,
    AvroSchema,
    Check,
    Compatibility,
    RegisteredSchema,
    Registration,
)


class MemoryRegistry:
    """See ``gatelog.schemas.registry.Registry``."""

    def __init__(self) -> None:
        """Start empty."""
        self._schemas: dict[int, RegisteredSchema] = {}
        self._levels: dict[str | None, Compatibility] = {}

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """See ``Registry``."""
        found = await self.find(subject, definition)
        if found is not None:
            return found.id
        if not register:
            raise SchemaError(f"The schema of {subject} is not registered, and register_schemas is off.")
        schema_id = (await self.register(subject, definition, problems)).schema_id
        assert schema_id is not None
        return schema_id

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """See ``Registry``."""
        return {schema_id: self._schemas[schema_id] for schema_id in ids if schema_id in self._schemas}

    async def subjects(self) -> list[str]:
        """See ``Registry``."""
        return sorted({schema.subject for schema in self._schemas.values()})

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """See ``Registry``."""
        return sorted((s for s in self._schemas.values() if s.subject == subject), key=lambda s: s.version)

    async def latest(self, subject: str) -> RegisteredSchema:
        """See ``Registry``."""
        if versions := await self.versions(subject):
            return versions[-1]
        raise SchemaError(f"There is no schema for event type {subject!r}.")

    async def find(self, subject: str, definition: AvroSchema) -> RegisteredSchema | None:
        """See ``Registry``."""
        return next((s for s in await self.versions(subject) if same(s.definition, definition)), None)

    async def register(
        self, subject: str, definition: AvroSchema, check: Check, *, dry_run: bool = False
    ) -> Registration:
        """See ``Registry``."""
        found = await self.find(subject, definition)
        if found is not None:
            return Registration(found.id, found.version, new=False)
        versions = await self.versions(subject)
        level = await self.level(subject)
        if wrong := check(level, definition, versions):
            raise IncompatibleSchemaError(subject, level, wrong)
        version = versions[-1].version + 1 if versions else 1
        if dry_run:
            return Registration(None, version, new=True)
        schema = RegisteredSchema(max(self._schemas, default=0) + 1, subject, version, definition)
        self._schemas[schema.id] = schema
        return Registration(schema.id, version, new=True)

    async def level(self, subject: str | None = None) -> Compatibility:
        """See ``Registry``."""
        return self._levels.get(subject) or self._levels.get(None) or DEFAULT_LEVEL

    async def set_level(self, level: Compatibility, subject: str | None = None) -> None:
        """See ``Registry``."""
        self._levels[subject] = level

    async def take_over(self, schemas: Iterable[RegisteredSchema]) -> int:
        """See ``Registry``."""
        taken = dict(self._schemas)
        for schema in schemas:
            if taken.setdefault(schema.id, schema) != schema:
                raise SchemaError(f"Schema id {schema.id} is taken by another definition.")
        new = len(taken) - len(self._schemas)
        self._schemas = taken
        return new
