"""Whose the checkpoints in a database of read models are: two stores of one name would take them for their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from gatelog.core import dsns, identity, migrations, postgres
from gatelog.core.consumer_errors import ProjectionNotPreparedError
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings


async def record(settings: Settings, dsn: str, projection: str) -> None:
    """Write down the store's id in a database of read models, if nobody has yet.

    Raises:
        ForeignStoreError: it has checkpoints of another store of the same name.
        PostgresUnavailableError: no answer.
    """
    async with _connected(settings, dsn, projection) as (store, connection):
        await migrations.apply(connection, store.store, migrations.of(identity.PACKAGE))
        await identity.record(connection, store.store, store.store_id, dsn)


async def check(settings: Settings, dsn: str, projection: str) -> None:
    """Compare what a database of read models has written down with the store's id.

    Raises:
        ForeignStoreError: it has checkpoints of another store of the same name.
        ProjectionNotPreparedError: it has written down nothing.
        PostgresUnavailableError: no answer.
    """
    async with _connected(settings, dsn, projection) as (store, connection):
        try:
            await identity.refuse_other(connection, store.store, store.store_id, dsn)
        except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError) as error:
            raise ProjectionNotPreparedError(projection, dsns.where(dsn)) from error


@asynccontextmanager
async def _connected(
    settings: Settings, dsn: str, projection: str
) -> AsyncIterator[tuple[Identified, postgres.Connection]]:
    """Yield the settings with the id, which the gate's database tells, and a connection to the read models'."""
    name = f"gatelog projection {projection}"
    store = await identity.ask(settings, name)
    connection = await postgres.connect(dsn, settings.store, name)
    try:
        with postgres.translated(settings.store, dsn):
            yield store, connection
    finally:
        await connection.close()
