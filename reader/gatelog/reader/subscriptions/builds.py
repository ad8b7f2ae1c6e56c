"""Builds of a read model: which is live, which is being built beside it, and the switch between them.

The tables of a build may have a schema of their own, which is first in the function's search path. The live build's
schema has the plain name, others end in ``_b`` and the number of the build: a switch renames both in the transaction
that makes the new build the live one, and readers never see half of it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

import asyncpg

from gatelog.core import dsns, logs, migrations, postgres
from gatelog.core.consumer_errors import ProjectionNotPreparedError, ProjectionReplacedError
from gatelog.core.errors import InvalidInputError
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.checkpoints import PACKAGE, SQL_FILE
from gatelog.reader.subscriptions.merge import Place

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
SetUp: TypeAlias = Callable[[Connection], Awaitable[None]]
State: TypeAlias = Literal["building", "live", "retired"]
SCHEMA_BYTES_MAX: Final = 50  # Postgres takes 63; the number of a build is added
CLOSE_EVENTS: Final = 20_000  # behind the live build, from which the rest is worth waiting for
SWITCH_WAIT_S: Final = 5.0  # that the live build may be stopped for
SWITCH_INTERVAL_S: Final = 0.02

_log = logs.logger("projection")


@dataclass(frozen=True, slots=True)
class Build:
    """One time that a read model is, or was, filled from the beginning."""

    number: int
    version: int
    state: State
    since: datetime
    changed_at: datetime


class Builds:
    """The builds of one projection, in the database of its read model."""

    def __init__(self, dsn: str, store: str, projection: str, schema: str | None) -> None:
        """Nothing is opened yet. ``schema``: where the live build's tables are; None: the function's own affair."""
        self._dsn = dsn
        self._store = store
        self._projection = projection
        self._schema = schema
        self._sql = queries(PACKAGE, SQL_FILE, store)

    @asynccontextmanager
    async def _deciding(self) -> AsyncIterator[Connection]:
        """Open a transaction in which nobody else decides on builds."""
        connection = await postgres.connect(
            self._dsn, self._store, f"gatelog builds {self._projection}", search_path=True
        )
        try:
            with postgres.translated(self._store, self._dsn):
                async with connection.transaction():
                    try:
                        await connection.execute(self._sql["lock_builds"], self._projection)
                        await connection.execute(f'SELECT FROM "{self._store}".projection_builds LIMIT 0')
                    except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError) as error:
                        raise ProjectionNotPreparedError(self._projection, dsns.where(self._dsn)) from error
                    yield connection
        finally:
            await connection.close()

    async def prepare(self, version: int, set_up: SetUp | None) -> None:
        """Make the checkpoint tables and the first build, where they are missing.

        Raises:
            InvalidInputError: the read model's schema holds tables already; the set-up failed.
            PostgresUnavailableError: no answer.
        """
        connection = await postgres.connect(self._dsn, self._store, f"gatelog prepare {self._projection}")
        try:
            with postgres.translated(self._store, self._dsn):
                await migrations.apply(connection, self._store, migrations.of(PACKAGE))
        finally:
            await connection.close()
        async with self._deciding() as deciding:
            if not await self._all(deciding):
                await self._begin(deciding, version, "live", set_up)

    async def to_work_on(self, version: int, set_up: SetUp | None) -> Build:
        """Return the build that a program of this version fills: the live one, or a new one beside it.

        Raises:
            ProjectionNotPreparedError: there is none.
            ProjectionReplacedError: the live one is newer, or the one that is being built.
        """
        async with self._deciding() as connection:
            builds = await self._all(connection)
            live = next((build for build in builds if build.state == "live"), None)
            if live is None:
                raise ProjectionNotPreparedError(self._projection, dsns.where(self._dsn))
            if live.version == version:
                return live
            if live.version > version:
                raise ProjectionReplacedError(self._projection, version, live.version)
            return await self._building(connection, builds, version, set_up)

    async def to_rebuild(self, version: int, set_up: SetUp | None) -> Build:
        """Return the build that a rebuild fills: the one that was begun, or a new one.

        Raises:
            ProjectionNotPreparedError: there is no live one beside which it could be built.
            ProjectionReplacedError: a newer version is live or being built.
        """
        async with self._deciding() as connection:
            builds = await self._all(connection)
            newest = max((build.version for build in builds if build.state != "retired"), default=None)
            if newest is None:
                raise ProjectionNotPreparedError(self._projection, dsns.where(self._dsn))
            if newest > version:
                raise ProjectionReplacedError(self._projection, version, newest)
            return await self._building(connection, builds, version, set_up)

    async def _building(
        self, connection: Connection, builds: list[Build], version: int, set_up: SetUp | None
    ) -> Build:
        begun = next((build for build in builds if build.state == "building"), None)
        if begun is not None:
            if begun.version == version:
                return begun
            if begun.version > version:
                raise ProjectionReplacedError(self._projection, version, begun.version)
            await self._drop(connection, begun)  # an older program had begun it, and will not end it
        number = await self._begin(connection, version, "building", set_up)
        return next(build for build in await self._all(connection) if build.number == number)

    async def _begin(self, connection: Connection, version: int, state: State, set_up: SetUp | None) -> int:
        number = int(await connection.fetchval(self._sql["add_build"], self._projection, version, state))
        if self._schema is not None:
            schema = _quoted(self.schema_of(number, state))
            is_first = state == "live" and set_up is not None
            if is_first and await connection.fetchval(self._sql["has_tables"], self._schema):
                raise InvalidInputError(
                    f"Projection {self._projection!r}: there are tables in schema {self._schema!r} already. A "
                    "rebuild renames the schema, and a drop removes it: give the projection one of its own."
                )
            await connection.execute(f"CREATE SCHEMA {'IF NOT EXISTS ' if state == 'live' else ''}{schema}")
            await self.enter(connection, number, state, is_local=True)
        if set_up is not None:
            try:
                await set_up(connection)
                await connection.execute("SELECT")  # refused where it caught an error: COMMIT would undo everything
            except asyncpg.PostgresError as error:
                raise InvalidInputError(f"Projection {self._projection!r}: its set-up failed: {error}") from error
        _log.info("projection.begun", projection=self._projection, build=number, version=version, state=state)
        return number

    def schema_of(self, number: int, state: State) -> str:
        """Return the schema of a build."""
        return f"{self._schema}" if state == "live" else f"{self._schema}_b{number}"

    async def enter(self, connection: Connection, number: int, state: State, *, is_local: bool = False) -> None:
        """Put the schema of a build first in the search path, for the transaction or for good."""
        if self._schema is not None:
            await connection.execute(
                "SELECT set_config('search_path', $1 || ', ' || current_setting('search_path'), $2)",
                _quoted(self.schema_of(number, state)),
                is_local,
            )

    async def all(self) -> list[Build]:
        """Return every build, the oldest first.

        Raises:
            ProjectionNotPreparedError: the database has no tables for them.
        """
        async with self._deciding() as connection:
            return await self._all(connection)

    async def _all(self, connection: Connection) -> list[Build]:
        rows = await connection.fetch(self._sql["builds"], self._projection)
        return [Build(row["build"], row["version"], row["state"], row["since"], row["changed_at"]) for row in rows]

    async def drop(self, number: int) -> None:
        """Drop a build that is not live, and its schema.

        Raises:
            InvalidInputError: there is no such build, or it is live.
        """
        async with self._deciding() as connection:
            build = next((each for each in await self._all(connection) if each.number == number), None)
            if build is None or build.state == "live":
                why = "is live" if build else "does not exist"
                raise InvalidInputError(f"Projection {self._projection!r}: build {number} {why}.")
            await self._drop(connection, build)

    async def _drop(self, connection: Connection, build: Build) -> None:
        await connection.execute(self._sql["freeze"], self._projection, build.number)
        await connection.execute(self._sql["drop_build"], self._projection, build.number)
        if self._schema is not None:
            await connection.execute(
                f"DROP SCHEMA IF EXISTS {_quoted(self.schema_of(build.number, build.state))} CASCADE"
            )

    # --- the switch -------------------------------------------------------------------------------

    async def switch(self, number: int) -> bool:
        """Make a build the live one if it has come as far, and say whether that, or its end, was reached.

        The live build stops meanwhile, for at most 5 s: so that readers never see their read model go back.
        """
        async with self._deciding() as connection:
            builds = {build.number: build for build in await self._all(connection)}
            if number not in builds or builds[number].state != "building":
                return True
            live = next(build for build in builds.values() if build.state == "live")
            if not await self._is_close(connection, live.number, number, CLOSE_EVENTS):
                return False
            await connection.execute(f"SET LOCAL lock_timeout = '{SWITCH_WAIT_S}s'")
            try:
                await connection.execute(self._sql["freeze"], self._projection, live.number)
                async with asyncio.timeout(SWITCH_WAIT_S):
                    while not await self._is_close(connection, live.number, number, 0):  # noqa: ASYNC110 - other processes
                        await asyncio.sleep(SWITCH_INTERVAL_S)
            except (TimeoutError, asyncpg.LockNotAvailableError):
                return False
            await self._exchange(connection, live, builds[number])
            return True

    async def _is_close(self, connection: Connection, live: int, number: int, events: int) -> bool:
        """Say whether a build is at most so many positions behind another one, in every partition."""
        there, here = await self._positions(connection, live), await self._positions(connection, number)
        return all(position <= here.get(place, 0) + events for place, position in there.items())

    async def _positions(self, connection: Connection, number: int) -> dict[Place, int]:
        rows = await connection.fetch(self._sql["checkpoints"], self._projection, number)
        return {(row["topic"], row["partition"]): row["position"] for row in rows}

    async def _exchange(self, connection: Connection, live: Build, built: Build) -> None:
        await connection.execute(self._sql["set_state"], self._projection, live.number, "retired")
        await connection.execute(self._sql["set_state"], self._projection, built.number, "live")
        await connection.execute(self._sql["dismiss"], self._projection, [live.number, built.number])
        if self._schema is not None:
            names = [
                (self.schema_of(live.number, "live"), self.schema_of(live.number, "retired")),
                (self.schema_of(built.number, "building"), self.schema_of(built.number, "live")),
            ]
            for old, new in names:
                await connection.execute(f"ALTER SCHEMA {_quoted(old)} RENAME TO {_quoted(new)}")
        _log.info("projection.switched", projection=self._projection, live=built.number, version=built.version)


def check_schema(projection: str, schema: str) -> None:
    """Refuse a schema that could not be renamed, or must not be.

    Raises:
        InvalidInputError: it is one of Postgres' own, or its name is not legal.
    """
    is_own = schema.startswith("pg_") or schema in {"public", "information_schema"}
    size = len(schema.encode(errors="replace"))
    if is_own or not schema.isprintable() or not 1 <= size <= SCHEMA_BYTES_MAX:
        raise InvalidInputError(
            f"Projection {projection!r}: schema {schema!r} is empty, longer than {SCHEMA_BYTES_MAX} bytes, one of "
            "Postgres' own, or holds control characters."
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
