"""What a store's schema lacks of what its migrations make, and its repair, in the transaction of ``gatelog init``.

The migrations are run once more, into a schema beside it, and both are described by Postgres itself: nothing has to
be kept in step with the migrations, and what is lost is taken from there. A table is moved, with its columns,
constraints, sequences and first rows; the rest is made by the statement that Postgres writes for it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import asyncpg

from gatelog.core import migrations, postgres
from gatelog.core.errors import GatelogError, WaitTimeoutError
from gatelog.core.migrations import Migration
from gatelog.core.sql import queries

Settle: TypeAlias = Callable[[postgres.Connection, set[str]], Awaitable[list[str]]]
"""(connection, names of tables, sequences and partitions made anew) → what is to be done next, one line each."""
Finish: TypeAlias = Callable[[postgres.Connection, list[Migration]], Awaitable[None]]
"""(connection, migrations that were applied now) → what belongs to the tables is in them."""

LOCK_WAIT_S: Final = 10  # for whoever uses what is to be repaired

_BESIDE: Final = "-compare"  # no store is called so, nor anything in one: names have no "-"
_HOLD_ROWS: Final = ("table", "sequence", "partition")  # rows of a partition that was away were seen by nobody
_NOT_DONE: Final = "it may hold rows, and is left as it is: change it back by hand"
_Key: TypeAlias = tuple[str, str]


class InitRefusedError(GatelogError):
    """Tables cannot be made here: the schema is somebody else's, or our role may not. Nothing was changed."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Object:
    """Something that migrations make, as Postgres tells it without the schema's name."""

    kind: str
    name: str
    parent: str | None
    definition: str
    ddl: str | None
    undo: str | None

    @property
    def key(self) -> _Key:
        """By which it is found in another schema."""
        return self.kind, self.name

    @property
    def is_moved(self) -> bool:
        """Whether it holds something: a table, or a sequence that belongs to no column."""
        return self.kind == "table" or (self.kind == "sequence" and self.parent is None)


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as the migrations make it; ``is_missing``: it is not there at all."""

    kind: str
    name: str
    is_missing: bool
    why_left: str | None = None  # it could not be repaired, or is not to be

    def __str__(self) -> str:
        what = f"{self.kind} {self.name}" + ("" if self.is_missing else " (was changed)")
        return what if self.why_left is None else f"{what}: {self.why_left}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ``gatelog init`` did to one schema, or would do."""

    applied: list[Migration]
    mended: list[Difference]
    left: list[Difference]  # that it could not repair
    next_steps: list[str]

    @property
    def is_whole(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.applied or self.mended or self.left)


async def bring_up(
    connection: postgres.Connection,
    store: str,
    wanted: list[Migration],
    settle: Settle,
    finish: Finish,
    *,
    check: bool = False,
) -> Outcome:
    """Make what is lost or changed of the migrations that were applied, then apply the others; all or nothing.

    ``settle`` is called when tables were made anew, ``finish`` at the end, in the same transaction. ``check``: only
    say what would be done.

    Raises:
        MigrationChangedError: an applied migration differs from the file.
        StoreNewerThanProgramError: the store knows more migrations than this program.
        InitRefusedError: the schema holds tables that are not a store's, or our role may not make any.
        WaitTimeoutError: another session holds a lock on a table for over 10 s.
    """
    try:
        async with connection.transaction():
            done = await _bring_up(connection, store, wanted, settle, check=check)
            if not check:
                await finish(connection, done.applied)
            return done
    except asyncpg.InsufficientPrivilegeError as error:
        raise InitRefusedError(
            f"Store {store!r}: {error}. `gatelog init` needs CREATE on the database, and, when it is run again, the "
            "role that owns the tables. Nothing was changed."
        ) from error
    except asyncpg.LockNotAvailableError as error:
        raise WaitTimeoutError(
            f"Store {store!r}: another session has held a lock on one of its tables for {LOCK_WAIT_S} s: {error}. "
            "Nothing was changed. Run `gatelog init` again."
        ) from error


async def _bring_up(
    connection: postgres.Connection, store: str, wanted: list[Migration], settle: Settle, *, check: bool
) -> Outcome:
    await migrations.lock(connection)
    mender = _Mender(connection, store)
    there = await mender.names()
    applied = await migrations.applied(connection, store, wanted) if "migrations" in there else wanted
    differences = await mender.compare(applied, repair=not check) if there else None
    if differences is None:  # nothing of it is there: it is new
        return Outcome(wanted if check else await migrations.apply_within(connection, store, wanted), [], [], [])
    if "migrations" not in there:
        _refuse_strangers(store, differences)
    if check:
        return Outcome([m for m in wanted if m not in applied], differences, [], [])
    steps: list[str] = []
    made = {each.name for each in differences if each.is_missing and each.kind in _HOLD_ROWS}
    if made:
        steps = await settle(connection, made)
        if roles := await mender.grantees():
            steps.append(f"What was made anew has no grants. Run those of {', '.join(roles)} again.")
    done = await migrations.apply_within(connection, store, wanted)
    left = [each for each in differences if each.why_left is not None]
    return Outcome(done, [each for each in differences if each.why_left is None], left, steps)


def _refuse_strangers(store: str, differences: list[Difference]) -> None:
    columns = [each.name for each in differences if each.kind == "column"]
    if columns:
        raise InitRefusedError(
            f"Store {store!r}: the schema of this name has no record of what gatelog has made in it, and holds other "
            f"tables under its names: they differ in {', '.join(columns[:5])}. Nothing was changed. Choose another "
            "name for the store."
        )


class _Mender:
    """The comparison of one schema, within a transaction."""

    def __init__(self, connection: postgres.Connection, store: str) -> None:
        self._connection = connection
        self._store, self._beside = store, f"{store}{_BESIDE}"
        self._sql = queries("gatelog.core", "mending.sql", store)

    async def names(self) -> set[str]:
        """Return what the schema has under a name."""
        return {row["name"] for row in await self._connection.fetch(self._sql["names"], f'"{self._store}"')}

    async def compare(self, applied: list[Migration], *, repair: bool) -> list[Difference] | None:
        """Return what is lost or changed; with ``repair``, what is left of it has a reason. None: all is missing."""
        connection = self._connection
        owner = await connection.fetchval(self._sql["owner"], f'"{self._store}"')
        await connection.execute(
            f"SET LOCAL ROLE {owner}; SET LOCAL check_function_bodies = off; "
            f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"
        )
        await migrations.apply_within(connection, self._beside, applied)
        wanted = {
            each.key: replace(
                each,
                definition=each.definition.replace(self._beside, self._store),
                ddl=each.ddl and each.ddl.replace(self._beside, self._store),
            )
            for each in (await self._objects(self._beside)).values()
        }
        there = await self._objects(self._store)
        found = _differing(wanted, there)
        is_there = not wanted.keys().isdisjoint(there)
        reasons = await self._repair(wanted, found) if found and is_there and repair else None
        await connection.execute(f'DROP SCHEMA "{self._beside}" CASCADE')
        if reasons is None:
            return found if is_there else None
        left = _differing(wanted, await self._objects(self._store))
        mended = [each for each in found if each not in left]
        return mended + [replace(each, why_left=reasons.get((each.kind, each.name), _NOT_DONE)) for each in left]

    async def grantees(self) -> list[str]:
        """Return the roles beside the owner that use the schema."""
        return [row["role"] for row in await self._connection.fetch(self._sql["grantees"], f'"{self._store}"')]

    async def _objects(self, schema: str) -> dict[_Key, Object]:
        await self._connection.execute(f'SET LOCAL search_path = "{schema}"')
        found = [Object(**row) for row in await self._connection.fetch(self._sql["objects"], f'"{schema}"')]
        return {each.key: each for each in found}

    async def _repair(self, wanted: Mapping[_Key, Object], found: list[Difference]) -> dict[_Key, str]:
        """Make what is lost and replace what was changed; return why something could not be."""
        lost = {each.name for each in found if each.is_missing and each.kind in ("table", "sequence")}
        for each in wanted.values():
            if each.is_moved and each.name in lost:
                await self._move(each, lost)
        there, reasons = await self._objects(self._store), {}
        for key, each in wanted.items():
            if each.ddl is not None and (key not in there or there[key].definition != each.definition):
                try:
                    async with self._connection.transaction():
                        await self._connection.execute(f"{each.undo or ''};{each.ddl}")
                except asyncpg.PostgresError as error:
                    reasons[key] = f"{type(error).__name__}: {error}"
        return reasons

    async def _move(self, lost: Object, all_lost: set[str]) -> None:
        if lost.kind == "table" and lost.parent is not None and lost.parent not in all_lost:
            await self._connection.execute(
                f'ALTER TABLE "{self._beside}".{lost.parent} DETACH PARTITION "{self._beside}".{lost.name}'
            )
        await self._connection.execute(f'ALTER {lost.kind} "{self._beside}".{lost.name} SET SCHEMA "{self._store}"')


def _differing(wanted: Mapping[_Key, Object], there: Mapping[_Key, Object]) -> list[Difference]:
    """Return what is missing or different; of a table that is missing, nothing but the table."""
    lost = {each.name for key, each in wanted.items() if each.kind == "table" and key not in there}
    return [
        Difference(each.kind, each.name, key not in there)
        for key, each in wanted.items()
        if (key not in there or there[key].definition != each.definition)
        and (each.kind == "table" or not lost & {each.name, each.parent})
    ]
