"""A fresh index beside the live one, in a schema of its own, and how it takes the live one's place.

The schema holds what the migrations of the index make, so that the indexer's own statements work on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from gatelog.core import migrations, postgres
from gatelog.core.sql import queries

PACKAGE: Final = "gatelog.indexer"
_PARTS: Final = ("gatelog.schemas", PACKAGE)  # the first one for the function that refuses changes
_SWITCH_LOCK_TIMEOUT_MS: Final = 100  # reads and appends wait as long behind a switch that has to wait itself
_BUILD_MEMORY: Final = "256MB"  # for one index


@dataclass(frozen=True, slots=True)
class Left:
    """What an earlier run has left behind."""

    is_begun: bool
    is_growing: bool
    is_switched: bool


@dataclass(frozen=True, slots=True)
class Lacking:
    """Positions that the live index holds and the fresh one does not."""

    total: int
    ranges: Sequence[tuple[int, int]]  # the first of them

    def __str__(self) -> str:
        shown = [f"{first:,}" + (f" to {last:,}" if last > first else "") for first, last in self.ranges]
        rest = self.total - sum(last - first + 1 for first, last in self.ranges)
        return ", ".join(shown) + (", …" if rest else "")


class Fresh:
    """The tables of one rebuild."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", store: str) -> None:
        """Work through ``connection``, which nobody else uses."""
        self.connection = connection
        self.schema = f"{store}_rebuild"  # no store is called so: names have no "_"
        names = {"@fresh": f'"{self.schema}"', "@retired": f'"{store}_retired"'}
        self._sql = {name: _named(text, names) for name, text in queries(PACKAGE, "rebuild.sql", store).items()}

    async def prepare(self) -> None:
        """Set the connection up: Postgres is to write every name in full."""
        await self.connection.execute(f"SET search_path = ''; SET maintenance_work_mem = '{_BUILD_MEMORY}'")

    async def lock(self) -> bool:
        """Say whether no other rebuild of the store is at work; keeps others out until the connection ends."""
        return bool(await self.connection.fetchval(self._sql["lock"]))

    async def is_owner(self) -> bool:
        """Say whether our role may replace the live table."""
        return bool(await self.connection.fetchval(self._sql["is_owner"]))

    async def left(self) -> Left:
        """Return what an earlier run has left."""
        row = await self.connection.fetchrow(self._sql["state"])
        assert row is not None
        return Left(row["is_begun"], row["is_growing"], row["is_switched"])

    async def make(self, *, indexed: bool) -> None:
        """Make the tables, all or nothing. Without ``indexed``, the index on positions is the only one for now."""
        connection = self.connection
        async with connection.transaction():
            await migrations.apply(connection, self.schema, [m for part in _PARTS for m in migrations.of(part)])
            for row in [] if indexed else await connection.fetch(self._sql["spare"]):
                await connection.execute(row["ddl"])
            await connection.execute(await connection.fetchval(self._sql["own"]))

    async def lacking_indexes(self) -> list[tuple[str, str]]:
        """Return name and definition of each index that the live table has and the fresh one does not."""
        return [(row["name"], row["ddl"]) for row in await self.connection.fetch(self._sql["lacking_indexes"])]

    async def build(self, definition: str) -> None:
        """Make an index.

        Raises:
            asyncpg.UniqueViolationError: what must be unique is not.
        """
        await self.connection.execute(definition)

    async def tidy(self) -> None:
        """Give the planner its statistics, and index-only scans their map."""
        await self.connection.execute(f'VACUUM (ANALYZE) "{self.schema}".events')

    async def live_offsets(self) -> dict[tuple[str, int], int]:
        """Return where the live index stands."""
        rows = await self.connection.fetch(self._sql["offsets"])
        return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}

    async def live_frontier(self) -> int:
        """Return the live frontier."""
        return int(await self.connection.fetchval(self._sql["frontier"]))

    async def lacking(self, after: int, upto: int | None = None) -> Lacking:
        """Compare the positions above ``after``, up to ``upto``."""
        rows = await self.connection.fetch(self._sql["lacking"], after, upto)
        return Lacking(rows[0]["total"] if rows else 0, [(row["first"], row["last"]) for row in rows])

    async def surplus(self, after: int, upto: int) -> int | None:
        """Return the lowest position above ``after``, up to ``upto``, that only the fresh index holds."""
        found: int | None = await self.connection.fetchval(self._sql["surplus"], after, upto)
        return found

    async def others(self, positions: Sequence[object], ids: Sequence[object]) -> set[int]:
        """Return the places of events at whose position the live index has another one."""
        return {row["place"] for row in await self.connection.fetch(self._sql["others"], positions, ids)}

    async def raise_frontier(self, reached: int) -> None:
        """Say that the fresh index is whole up to a position; one that it has passed changes nothing."""
        await self.connection.execute(self._sql["raise_fresh"], reached)

    async def highest(self) -> int:
        """Return the highest position of the live index."""
        return int(await self.connection.fetchval(self._sql["highest"]))

    async def hold(self) -> None:
        """Make indexers wait until the transaction ends."""
        await self.connection.execute(self._sql["hold"])

    async def oldest_reader(self, pool: postgres.Pool, since: datetime) -> asyncpg.Record | None:
        """Return who reads under a snapshot from before ``since``, if anybody does. In a transaction of its own."""
        return await pool.fetchrow(self._sql["older"], since, self.connection.get_server_pid())

    async def take_place(self) -> None:
        """Put the fresh table in the live one's place, within the transaction that holds the indexers.

        Raises:
            asyncpg.LockNotAvailableError: a transaction that has read the index is open.
        """
        connection, sql = self.connection, self._sql
        views = await connection.fetch(sql["views"])
        await connection.execute(f"SET LOCAL lock_timeout = {_SWITCH_LOCK_TIMEOUT_MS}")
        for view in views:
            await connection.execute(view["lock"])
        triggers = await connection.fetch(sql["triggers"])
        for privilege in await connection.fetch(sql["privileges"]):
            await connection.execute(privilege["ddl"])
        statistics, comments = await connection.fetch(sql["statistics"]), await connection.fetch(sql["comments"])
        for row in (*triggers, *statistics):
            await connection.execute(row["drop"])
        await connection.execute(sql["swap"])  # locks the live table against readers
        for row in (*triggers, *statistics, *comments, *views):
            await connection.execute(row["ddl"])
        await connection.execute(sql["take_over"])
        await connection.execute(sql["settle_unreadable"])

    async def clear(self) -> None:
        """Drop what a rebuild has made, and a table that it has replaced.

        Raises:
            asyncpg.DependentObjectsStillExistError: somebody's object depends on the replaced table.
        """
        await self.connection.execute(self._sql["drop_retired"])
        await self.connection.execute(self._sql["drop_fresh"])
        await self.connection.execute(self._sql["analyze"])


def _named(text: str, names: dict[str, str]) -> str:
    for name, schema in names.items():
        text = text.replace(name, schema)
    return text
