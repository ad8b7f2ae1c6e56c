"""The registry that needs no server: schema versions in the store's own Postgres."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from gatelog.core import postgres
from gatelog.core.errors import SchemaError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries

AvroSchema: TypeAlias = dict[str, Any]
_PACKAGE: Final = "gatelog.schemas"


@dataclass(frozen=True)
class RegisteredSchema:
    """One version of a subject, under an id that is unique in the store."""

    id: int
    subject: str
    version: int
    definition: AvroSchema


class Registry(Protocol):
    """What a codec asks a registry."""

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """Return the id of exactly this definition, registering it first if it is new and that is allowed.

        Raises:
            SchemaError: it is not registered, and may not be here.
        """
        ...

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """Return the schemas of ``ids`` that exist."""
        ...


class PostgresRegistry:
    """Finds and registers schemas; asks Postgres only for what it has not seen."""

    def __init__(self, settings: Settings, pool: postgres.Pool) -> None:
        """Work on the tables of the store through ``pool``, which the caller closes."""
        self._pool = pool
        self._store = settings.store
        self._dsn = settings.dsn
        self._sql = queries(_PACKAGE, "registry.sql", settings.store)
        self._by_id: dict[int, RegisteredSchema] = {}

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """Return the id of exactly this definition, registering it first if it is new and that is allowed.

        Raises:
            SchemaError: it is not registered, and may not be here.
        """
        text = json.dumps(definition, separators=(",", ":"))
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        with postgres.translated(self._store, self._dsn):
            found: int | None = await self._pool.fetchval(self._sql["find"], subject, sha256)
        if found is not None:
            return found
        if not register:
            raise SchemaError(
                f"The schema of {subject} in this program is not registered in store {self._store!r}, and "
                "register_schemas is off. Register it at deploy time."
            )
        with postgres.translated(self._store, self._dsn):
            return await self._register(subject, text, sha256)

    async def _register(self, subject: str, text: str, sha256: str) -> int:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(self._sql["lock_subject"], subject)
            found: int | None = await connection.fetchval(self._sql["find"], subject, sha256)
            if found is None:
                found = await connection.fetchval(self._sql["register"], subject, text, sha256)
        assert found is not None
        return found

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """Return the schemas of ``ids`` that exist; warm ones without I/O."""
        if missing := ids - self._by_id.keys():
            with postgres.translated(self._store, self._dsn):
                rows = await self._pool.fetch(self._sql["by_ids"], list(missing))
            for row in rows:
                self._by_id[row["id"]] = RegisteredSchema(
                    row["id"], row["subject"], row["version"], json.loads(row["definition"])
                )
        return {i: self._by_id[i] for i in ids if i in self._by_id}

    async def latest(self, subject: str) -> RegisteredSchema:
        """Return the newest version of a subject.

        Raises:
            SchemaError: the subject has none.
        """
        with postgres.translated(self._store, self._dsn):
            row = await self._pool.fetchrow(self._sql["latest"], subject)
        if row is None:
            raise SchemaError(f"Store {self._store!r} knows no schema for event type {subject!r}.")
        return RegisteredSchema(row["id"], row["subject"], row["version"], json.loads(row["definition"]))
