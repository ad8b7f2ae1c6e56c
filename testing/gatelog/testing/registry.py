"""Schemas in memory."""

from gatelog.core.errors import SchemaError
from gatelog.schemas.registry import AvroSchema, RegisteredSchema


class MemoryRegistry:
    """See ``gatelog.schemas.registry.Registry``."""

    def __init__(self) -> None:
        """Start empty."""
        self._schemas: list[RegisteredSchema] = []

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """See ``Registry``."""
        versions = [schema for schema in self._schemas if schema.subject == subject]
        for schema in versions:
            if schema.definition == definition:
                return schema.id
        if not register:
            raise SchemaError(f"The schema of {subject} is not registered, and register_schemas is off.")
        schema = RegisteredSchema(len(self._schemas) + 1, subject, len(versions) + 1, definition)
        self._schemas.append(schema)
        return schema.id

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """See ``Registry``."""
        return {schema.id: schema for schema in self._schemas if schema.id in ids}
