"""The index outside the gate's database: which shard holds a stream, and whether each database is the right one.

The number and the order of the shards are pinned in every database by ``gatelog init``. Nothing else knows them: the
shard of a stream follows from its id, and not from Kafka's partitions.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID
from zlib import crc32

import asyncpg

from gatelog.core import dsns, postgres
from gatelog.core.errors import IndexPlaceError, SettingsError, StoreNotInitialisedError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries

PACKAGE: Final = "gatelog.core.shards"


@dataclass(frozen=True, slots=True)
class Tables:
    """Which tables of a store a database has."""

    is_pinned: bool
    has_index: bool
    has_gate: bool


def shard_of(stream: bytes, shards: int) -> int:
    """Return the number of the shard that holds a stream, given the UTF-8 of its id. It never changes."""
    return crc32(stream) % shards


@dataclass(frozen=True, slots=True)
class Owner:
    """One shard of several, which keeps its own of the records that it reads."""

    shard: int
    shards: int

    def owns(self, stream: str | bytes | None) -> bool:
        """Say whether a stream, or the record with this key, is the shard's. What has no key is the first one's."""
        encoded = stream.encode() if isinstance(stream, str) else stream or b""
        return shard_of(encoded, self.shards) == self.shard


def owner_of(settings: Settings, shard: int) -> Owner | None:
    """Return what a shard keeps; None: it is the only one, and keeps everything."""
    return Owner(shard, len(settings.index_dsns)) if len(settings.index_dsns) > 1 else None


def dsn_of(settings: Settings, shard: int) -> str:
    """Return where a shard of the index is; without ``index_dsns``, shard 0 is the gate's own database.

    Raises:
        SettingsError: there is no such shard.
    """
    dsns = settings.shard_dsns or (settings.dsn,)
    if not 0 <= shard < len(dsns):
        raise SettingsError(f"There is no shard {shard} of the index: its shards are 0 to {len(dsns) - 1}.")
    return dsns[shard]


async def tables(connection: postgres.Connection, store: str) -> Tables:
    """Return which tables of a store are in this database."""
    row = await connection.fetchrow(queries(PACKAGE, "shards.sql", store)["has_place"])
    assert row is not None
    return Tables(**row)


async def check_gate(connection: postgres.Connection, settings: Settings) -> UUID | None:
    """Hold the settings against the gate's database; return the key by which its shards know it.

    None: the index is in the gate's own database.

    Raises:
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        IndexPlaceError: the index is elsewhere, or in another number of shards, than the settings say.
    """
    found = await tables(connection, settings.store)
    refuse_other_place(settings, found)
    if not settings.shard_dsns:
        return None
    if not found.is_pinned:
        raise StoreNotInitialisedError(settings.store, 0, 1)
    return await _checked(connection, settings, None, None)


async def check_shard(connection: postgres.Connection, settings: Settings, number: int, key: UUID) -> None:
    """Hold a database against what it should be: shard ``number`` of the store whose gate has this key.

    Raises:
        IndexPlaceError: it is another shard, belongs to another store, or has no tables of the store.
    """
    if not (await tables(connection, settings.store)).is_pinned:
        raise IndexPlaceError(
            settings.store,
            f"the database {dsns.where(settings.shard_dsns[number])}, index_dsns number {number}, has no tables "
            "of it. Run `gatelog init`. If that database was lost, indexers fill a new one: see docs/scaling.md.",
        )
    await _checked(connection, settings, number, key)


async def refuse_other(
    connection: postgres.Connection, settings: Settings, number: int | None, key: UUID | None
) -> None:
    """Refuse a database that is something else already; one that is nothing yet is well.

    Raises:
        IndexPlaceError: it is another shard, or belongs to another store.
    """
    if (await tables(connection, settings.store)).is_pinned:
        row = await connection.fetchrow(queries(PACKAGE, "shards.sql", settings.store)["place"])
        if row is not None:
            _compare(row, settings, number, key)


async def key_of(connection: postgres.Connection, settings: Settings) -> UUID | None:
    """Return the key of the store that a database holds a shard of; None: it holds none."""
    row = await _place(connection, settings)
    return None if row is None or row["shard"] is None else UUID(bytes=row["store_key"].bytes)


async def pinned_key(connection: postgres.Connection, settings: Settings) -> UUID | None:
    """Return the key that the gate's database has written down; None: none yet."""
    row = await _place(connection, settings)
    return None if row is None else UUID(bytes=row["store_key"].bytes)


async def _place(connection: postgres.Connection, settings: Settings) -> asyncpg.Record | None:
    """Return what a database has written down of what it is."""
    if not (await tables(connection, settings.store)).is_pinned:
        return None
    return await connection.fetchrow(queries(PACKAGE, "shards.sql", settings.store)["place"])


async def pin(connection: postgres.Connection, settings: Settings, number: int | None, key: UUID | None) -> UUID:
    """Write down what a database is, or compare it with what was written down before; return the store's key.

    Raises:
        IndexPlaceError: it is something else already.
    """
    sql = queries(PACKAGE, "shards.sql", settings.store)
    await connection.execute(sql["pin"], key, number, len(settings.shard_dsns))
    return await _checked(connection, settings, number, key)


def refuse_other_place(settings: Settings, gate: Tables) -> None:
    """Refuse settings that look for the index where the gate's database says that it is not.

    Raises:
        IndexPlaceError: it is elsewhere.
    """
    if gate.is_pinned and not settings.shard_dsns:
        raise IndexPlaceError(
            settings.store,
            "its index is in other databases than the gate. Set index_dsns (GATELOG_INDEX_DSNS) as `gatelog init` "
            "had it.",
        )
    if settings.shard_dsns and gate.has_index and not gate.is_pinned:
        raise IndexPlaceError(
            settings.store,
            "its index is in the gate's own database, but index_dsns is set. Remove it. A store's index stays where "
            "`gatelog init` first put it: see docs/scaling.md.",
        )


async def _checked(connection: postgres.Connection, settings: Settings, number: int | None, key: UUID | None) -> UUID:
    row = await connection.fetchrow(queries(PACKAGE, "shards.sql", settings.store)["place"])
    if row is None:  # somebody is running `gatelog init` at this moment, or was broken off
        raise StoreNotInitialisedError(settings.store, 0, 1)
    _compare(row, settings, number, key)
    return UUID(bytes=row["store_key"].bytes)


def _compare(row: asyncpg.Record, settings: Settings, number: int | None, key: UUID | None) -> None:
    shards = len(settings.shard_dsns)
    dsn = settings.dsn if number is None else settings.shard_dsns[number]
    what = f"the database {dsns.where(dsn)}"
    if key is not None and row["store_key"] != key:
        raise IndexPlaceError(
            settings.store,
            f"{what} is index_dsns number {number}, but belongs to another store of this name. If that is gone, drop "
            f"its schema {settings.store!r} there and run `gatelog init`.",
        )
    if row["shard"] != number:
        raise IndexPlaceError(
            settings.store,
            f"{what} is {_named(row['shard'])}, but index_dsns has it as {_named(number)}. Put them in the "
            "old order.",
        )
    if row["shards"] != shards:
        raise IndexPlaceError(
            settings.store,
            f"its index was made of {row['shards']} shards, but index_dsns names {shards}. The number is fixed: see "
            "docs/scaling.md.",
        )


def _named(number: int | None) -> str:
    return "the gate's database" if number is None else f"shard {number} (counted from 0)"
