"""Which store a store is: an id that ``gatelog init`` makes once, in the gate's database. Names can be given twice.

Two stores of one name, in two databases, would take each other's records in one Kafka for their own. So each record
names the store by its id, and so does everything that a store has in Kafka besides: groups, transactional ids, topics
of parked events.
"""

from contextlib import suppress
from typing import Final
from uuid import UUID

import asyncpg

from gatelog.core import dsns, postgres
from gatelog.core.errors import GatelogError, StoreNotInitialisedError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries

PACKAGE: Final = "gatelog.core.identity"
_COMMENT: Final = "gatelog store "  # before the id
_SHORT: Final = 8  # hexadecimal digits: enough for the few stores that have one name


class ForeignStoreError(GatelogError):
    """A topic or a database belongs to another store of the same name: their ids differ."""

    exit_code = 8

    def __init__(self, store: str, store_id: str, other: str, why: str) -> None:
        self.store, self.store_id, self.other = store, store_id, other
        super().__init__(f"Store {store!r}: {why}")


class Identified(Settings):
    """The settings of a store whose database has said which one it is. Made by ``identified``."""

    store_id: UUID

    @property
    def source(self) -> str:
        """The CloudEvents source of its records: it tells whose record a record is."""
        return source_of(self.store, self.store_id)

    def named(self, *parts: object) -> str:
        """Return the name of something in Kafka that only this store has: ``gatelog.<store>.<parts>.<short id>``."""
        return ".".join(["gatelog", self.store, *map(str, parts), self.short_id])

    @property
    def short_id(self) -> str:
        """What names in Kafka have of the id."""
        return self.store_id.hex[:_SHORT]


def source_of(store: str, store_id: UUID) -> str:
    """Return the CloudEvents source of a store's records: ``/gatelog/<store>/<id>``."""
    return f"/gatelog/{store}/{store_id}"


def namesake_in(source: str | bytes | None, store: str) -> str | None:
    """Return the id in the source of a record of some store of this name; None: it is of none.

    A source without an id gives "": records had none before the first release.
    """
    text = source.decode(errors="replace") if isinstance(source, bytes) else source or ""
    name, _, store_id = text.removeprefix("/gatelog/").partition("/")
    return store_id if text.startswith("/gatelog/") and name == store else None


async def identified(settings: Settings, connection: postgres.Connection | postgres.Pool) -> Identified:
    """Ask the gate's database which store it holds.

    Raises:
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        PostgresUnavailableError: no answer.
    """
    with postgres.translated(settings.store, settings.dsn):
        store_id = await known(connection, settings.store)
    if store_id is None:  # somebody is running `gatelog init` at this moment, or has emptied the table
        raise StoreNotInitialisedError(settings.store, 0, 1)
    return Identified.model_construct(**{**dict(settings), "store_id": store_id})


async def ask(settings: Settings, name: str) -> Identified:
    """Connect to the gate's database as the application ``name``, and ask; raises what ``identified`` raises."""
    connection = await postgres.connect(settings.dsn, settings.store, name)
    try:
        return await identified(settings, connection)
    finally:
        await connection.close()


async def known(connection: postgres.Connection | postgres.Pool, store: str) -> UUID | None:
    """Return the id that a database has written down; None: none yet."""
    found = await connection.fetchval(queries(PACKAGE, "identity.sql", store)["known"])
    return None if found is None else UUID(bytes=found.bytes)


async def remembered(connection: postgres.Connection, store: str) -> UUID | None:
    """Return the id that a schema has as a comment: it is there still when the table is lost."""
    text = await _comment(connection, store)
    return UUID(text.removeprefix(_COMMENT)) if text is not None and text.startswith(_COMMENT) else None


async def remember(connection: postgres.Connection, store: str, store_id: UUID) -> None:
    """Make the id the schema's comment, where it has none of others, and our role may."""
    text = await _comment(connection, store)
    if text is None or (text.startswith(_COMMENT) and text != f"{_COMMENT}{store_id}"):
        with suppress(asyncpg.InsufficientPrivilegeError):
            async with connection.transaction():
                await connection.execute(f"COMMENT ON SCHEMA \"{store}\" IS '{_COMMENT}{store_id}'")


async def _comment(connection: postgres.Connection, store: str) -> str | None:
    found: str | None = await connection.fetchval(queries(PACKAGE, "identity.sql", store)["comment"], f'"{store}"')
    return found


async def record(connection: postgres.Connection, store: str, store_id: UUID, dsn: str) -> None:
    """Write down whose tables a database has, if nobody has yet.

    Raises:
        ForeignStoreError: they are another store's.
    """
    await connection.execute(queries(PACKAGE, "identity.sql", store)["record"], store_id)
    await refuse_other(connection, store, store_id, dsn)


async def refuse_other(connection: postgres.Connection, store: str, store_id: UUID, dsn: str) -> None:
    """Compare what a database has written down with the store that it is used for.

    Raises:
        ForeignStoreError: it is another one.
    """
    if (found := await known(connection, store)) != store_id:
        raise ForeignStoreError(
            store,
            str(store_id),
            str(found),
            f"the database at {dsns.where(dsn)} holds tables of the store {store!r} with the id {found}; this store "
            f"has the id {store_id}. Nothing was changed. Give one of the two another name (GATELOG_STORE), or a "
            "database of its own.",
        )
