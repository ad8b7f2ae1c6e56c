"""Where the index of a store, or one shard of it, is: connections to it, and to the gate's database, both checked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatelog.core import migrations, postgres, shards
from gatelog.core.identity import Identified, identified
from gatelog.core.settings import Settings
from gatelog.indexer.writing import PACKAGE


@asynccontextmanager
async def index_pools(
    settings: Settings, shard: int, name: str, connections_max: int
) -> AsyncIterator[tuple[Identified, postgres.Pool, postgres.Pool]]:
    """Yield the settings with the store's id, and pools of the gate's database and of the index; often one.

    Raises:
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        IndexPlaceError: a database is not what the settings say.
        PostgresUnavailableError: no answer.
    """
    dsn, store = shards.dsn_of(settings, shard), settings.store
    async with postgres.pool(settings.dsn, store, name, connections_max) as gate:
        with postgres.translated(store, settings.dsn):
            async with gate.acquire() as connection:
                key = await shards.check_gate(connection, settings)
                if key is None:
                    await migrations.check(connection, store, PACKAGE)
                own = await identified(settings, connection)
        if key is None:
            yield own, gate, gate
            return
        async with postgres.pool(dsn, store, name, connections_max) as pool:
            with postgres.translated(store, dsn):
                async with pool.acquire() as connection:
                    await shards.check_shard(connection, settings, shard, key)
                    await migrations.check(connection, store, PACKAGE)
            yield own, gate, pool
