"""The registry that needs no server: schema versions in the store's own Postgres."""

import json
from collections.abc import Iterable
from typing import Any, Final

import asyncpg

from gatelog.core import postgres
from gatelog.core.errors import IncompatibleSchemaError, SchemaError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.schemas.checking import problems
from gatelog.schemas.definitions import fingerprint, same
from gatelog.schemas.registry import (
    DEFAULT_LEVEL,
    AvroSchema,
    Check,
    Compatibility,
    RegisteredSchema,
    Registration,
)

_PACKAGE: Final = "gatelog.schemas"
_ALL: Final = ""  # the subject that stands for those without a level of their own
_ID_MAX: Final = 2**31 - 1


class PostgresRegistry:
    """See ``gatelog.schemas.registry.Registry``; asks Postgres only for what it has not seen."""

    def __init__(self, settings: Settings, pool: postgres.Pool) -> None:
        """Work on the tables of the store through ``pool``, which the caller closes."""
        self._pool = pool
        self._store = settings.store
        self._dsn = settings.dsn
        self._sql = queries(_PACKAGE, "registry.sql", settings.store)
        self._by_id: dict[int, RegisteredSchema] = {}
        self._given: dict[int, RegisteredSchema] = {}  # ids that events are written with
        self._history: str | None = None

    async def follow(self, connection: postgres.Connection) -> None:
        """Look at a new connection: is it the same Postgres? To be called before events go through it.

        A failover may have lost the registration of a schema whose id is in use here: it is put back.

        Raises:
            SchemaError: it cannot be; events must not be stored under an id that says something else, or nothing.
        """
        history = await postgres.history_of(connection)
        if history is None:
            return  # a standby: nothing is written there
        if self._history not in {None, history}:
            async with connection.transaction():
                for schema in self._given.values():
                    await connection.execute(self._sql["lock_subject"], schema.subject)
                    await self._take_over(connection, schema)
        self._history = history

    async def id_of(self, subject: str, definition: AvroSchema, *, register: bool) -> int:
        """See ``Registry``."""
        found = await self.find(subject, definition)
        if found is not None:
            self._given[found.id] = found
            return found.id
        if not register:
            raise SchemaError(
                f"The schema of {subject} in this program is not registered in store {self._store!r}, and "
                "register_schemas is off. Register it at deploy time."
            )
        made = await self.register(subject, definition, problems)
        assert made.schema_id is not None
        self._given[made.schema_id] = RegisteredSchema(made.schema_id, subject, made.version, definition)
        return made.schema_id

    async def load(self, ids: set[int]) -> dict[int, RegisteredSchema]:
        """See ``Registry``."""
        missing = [schema_id for schema_id in ids if schema_id not in self._by_id and 0 < schema_id <= _ID_MAX]
        if missing:
            for row in await self._fetch("by_ids", missing):
                self._by_id[row["id"]] = _schema(row)
        return {i: self._by_id[i] for i in ids if i in self._by_id}

    async def subjects(self) -> list[str]:
        """See ``Registry``."""
        return [row["subject"] for row in await self._fetch("subjects")]

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """See ``Registry``."""
        return [_schema(row) for row in await self._fetch("versions", subject)]

    async def latest(self, subject: str) -> RegisteredSchema:
        """See ``Registry``."""
        for row in await self._fetch("latest", subject):
            return _schema(row)
        raise SchemaError(f"Store {self._store!r} knows no schema for event type {subject!r}.")

    async def find(self, subject: str, definition: AvroSchema) -> RegisteredSchema | None:
        """See ``Registry``."""
        for row in await self._fetch("find", subject, fingerprint(definition)):
            return _schema(row)
        return None

    async def register(
        self, subject: str, definition: AvroSchema, check: Check, *, dry_run: bool = False
    ) -> Registration:
        """See ``Registry``. Who comes second waits, and is checked against what the first one has registered."""
        with postgres.translated(self._store, self._dsn):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(self._sql["lock_subject"], subject)
                row = await connection.fetchrow(self._sql["find"], subject, fingerprint(definition))
                if row is not None:
                    return Registration(row["id"], row["version"], new=False)
                versions = [_schema(each) for each in await connection.fetch(self._sql["versions"], subject)]
                level = _level(await connection.fetchval(self._sql["level"], subject))
                if found := check(level, definition, versions):
                    raise IncompatibleSchemaError(subject, level, found)
                if dry_run:
                    return Registration(None, versions[-1].version + 1 if versions else 1, new=True)
                row = await connection.fetchrow(
                    self._sql["register"], subject, _text(definition), fingerprint(definition)
                )
                assert row is not None
                return Registration(row["id"], row["version"], new=True)

    async def level(self, subject: str | None = None) -> Compatibility:
        """See ``Registry``."""
        rows = await self._fetch("level", subject or _ALL)
        return _level(rows[0]["level"] if rows else None)

    async def levels(self) -> dict[str, Compatibility]:
        """Return the levels that are set, by subject; under "" the one of all others."""
        return {row["subject"]: Compatibility(row["level"]) for row in await self._fetch("levels")}

    async def set_level(self, level: Compatibility, subject: str | None = None) -> None:
        """See ``Registry``."""
        await self._fetch("set_level", subject or _ALL, level.value)

    async def take_over(self, schemas: Iterable[RegisteredSchema]) -> int:
        """See ``Registry``."""
        with postgres.translated(self._store, self._dsn):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(self._sql["lock_all"])
                if await connection.fetchval(self._sql["is_awaited"]):
                    await connection.execute(self._sql["admit"])
                new = 0
                for schema in schemas:
                    new += await self._take_over(connection, schema)
                await connection.execute(self._sql["move_ids"])
                return new

    async def _take_over(self, connection: postgres.Connection, schema: RegisteredSchema) -> bool:
        there = await connection.fetch(self._sql["by_ids"], [schema.id])
        if there and _is_same(_schema(there[0]), schema):
            return False
        sha256 = fingerprint(schema.definition)
        try:
            async with connection.transaction():
                await connection.execute(
                    self._sql["import"], schema.id, schema.subject, schema.version, _text(schema.definition), sha256
                )
        except asyncpg.InsufficientPrivilegeError as error:
            raise SchemaError(
                f"Store {self._store!r} has lost schema id {schema.id} ({schema.subject} version {schema.version}), "
                "in a failover for example, and this role may not put it back. Register it again (`gatelog schema "
                "register --apply`), and restart the programs that append events of this type."
            ) from error
        except asyncpg.UniqueViolationError as error:
            raise SchemaError(
                f"Store {self._store!r} cannot take over schema id {schema.id} ({schema.subject} version "
                f"{schema.version}): its id, version or definition is there already, as something else "
                f"({error.constraint_name}). Nothing was taken over. If a failover has lost it: restart this program."
            ) from error
        return True

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:  # noqa: ANN401 - asyncpg's own
        with postgres.translated(self._store, self._dsn):
            return await self._pool.fetch(self._sql[name], *arguments)


def _schema(row: asyncpg.Record) -> RegisteredSchema:
    return RegisteredSchema(row["id"], row["subject"], row["version"], json.loads(row["definition"]))


def _is_same(one: RegisteredSchema, other: RegisteredSchema) -> bool:
    places = [(schema.id, schema.subject, schema.version) for schema in (one, other)]
    return places[0] == places[1] and same(one.definition, other.definition)


def _level(found: str | None) -> Compatibility:
    return DEFAULT_LEVEL if found is None else Compatibility(found)


def _text(definition: AvroSchema) -> str:
    return json.dumps(definition, separators=(",", ":"))
