"""Numbered, append-only migrations, applied in one transaction under a lock: safe to run by many at once.

A part keeps its files in ``migrations/NNNN_name.sql`` of its package. What was applied is recorded with its
checksum, so that an edited migration is found and named.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import asyncpg

from gatelog.core import postgres
from gatelog.core.errors import GatelogError, SettingsError, StoreNewerThanProgramError, StoreNotInitialisedError
from gatelog.core.sql import with_store

_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_LOCK: Final = 0x6761_7465  # "gate": the advisory lock under which tables are made

_RECORD: Final = """
CREATE SCHEMA IF NOT EXISTS @store;
CREATE TABLE IF NOT EXISTS @store.migrations (
    part text NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (part, number)
);
"""


class MigrationChangedError(GatelogError):
    """A migration that was applied already differs from this program's file of the same number."""

    exit_code = 4


@dataclass(frozen=True)
class Migration:
    """One file: its part (a package), its number within the part, its text."""

    part: str
    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Checksum of the text as shipped, before a store's name is put in."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def of(package: str) -> list[Migration]:
    """Return the migrations of a part, in order."""
    found = []
    for file in files(package).joinpath("migrations").iterdir():
        if match := _FILE.fullmatch(file.name):
            text = file.read_text(encoding="utf-8")
            found.append(Migration(package.rpartition(".")[2], int(match[1]), match[2], text))
    return sorted(found, key=lambda m: m.number)


async def apply(connection: postgres.Connection, store: str, migrations: list[Migration]) -> list[Migration]:
    """Apply what is missing, all or nothing, and return it.

    Raises:
        MigrationChangedError: an applied migration differs from the file.
        StoreNewerThanProgramError: the store knows more migrations than this program.
        SettingsError: the database cannot hold every text.
    """
    async with connection.transaction():
        await lock(connection)
        return await apply_within(connection, store, migrations)


async def apply_within(connection: postgres.Connection, store: str, migrations: list[Migration]) -> list[Migration]:
    """Apply what is missing in the transaction that is open, under ``lock``; raises what ``apply`` raises.

    Not in a savepoint, which has a transaction id of its own: see the witness of restores.
    """
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise SettingsError(
            f"Store {store!r}: the database has the encoding {encoding}, and a store needs UTF8, which holds every "
            "text. Make another one: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0."
        )
    await connection.execute(with_store(_RECORD, store))
    known = await applied(connection, store, migrations)
    missing = [m for m in migrations if m not in known]
    for migration in missing:
        await connection.execute(with_store(migration.text, store))
        await connection.execute(
            with_store("INSERT INTO @store.migrations (part, number, name, sha256) VALUES ($1, $2, $3, $4)", store),
            migration.part,
            migration.number,
            migration.name,
            migration.sha256,
        )
    return missing


async def lock(connection: postgres.Connection) -> None:
    """Wait until nobody else makes tables, and keep others from it until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)


async def applied(connection: postgres.Connection, store: str, migrations: list[Migration]) -> list[Migration]:
    """Return those that the store's record names; raises what ``apply`` raises."""
    rows = await connection.fetch(with_store("SELECT part, number, sha256 FROM @store.migrations", store))
    known = {(row["part"], row["number"]): row["sha256"] for row in rows}
    _compare(store, known, migrations)
    return [m for m in migrations if (m.part, m.number) in known]


def _compare(store: str, applied: dict[tuple[str, int], str], migrations: list[Migration]) -> None:
    for m in migrations:
        if applied.get((m.part, m.number), m.sha256) != m.sha256:
            raise MigrationChangedError(
                f"Store {store!r}: migration {m.part}/{m.number:04}_{m.name} was applied with another text. "
                "An applied migration is never edited: run the gatelog that made this store, or restore the file."
            )
    _newer(store, applied, migrations)


def _newer(store: str, applied: dict[tuple[str, int], str], migrations: list[Migration]) -> None:
    for part in {m.part for m in migrations}:
        known = max(m.number for m in migrations if m.part == part)
        found = max((number for p, number in applied if p == part), default=0)
        if found > known:
            raise StoreNewerThanProgramError(store, found, known)


async def check(connection: postgres.Connection, store: str, package: str) -> None:
    """Refuse to work on tables that are missing, older or newer than this program's.

    Raises:
        StoreNotInitialisedError: missing or older.
        StoreNewerThanProgramError: newer.
    """
    wanted = of(package)
    needed = wanted[-1].number
    try:
        found = await connection.fetchval(
            with_store("SELECT coalesce(max(number), 0) FROM @store.migrations WHERE part = $1", store),
            wanted[0].part,
        )
    except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError):
        found = 0
    if found < needed:
        raise StoreNotInitialisedError(store, found, needed)
    _newer(store, {(wanted[0].part, found): ""}, wanted)
