"""Where the index of a store, or one shard of it, is: connections to it, and to the gate's database, both checked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatelog.core import migrations, postgres, shards
from gatelog.core.settings import Settings
from gatelog.indexer.writing import PACKAGE


@asynccontextmanager
async def index_pools(
    settings: Settings, shard: int, name: str, connections_max: int
) -> AsyncIterator[tuple[postgres.Pool, postgres.Pool]]:
    """Yield pools of the gate's database, where the schemas are, and of the index; often one and the same.

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
        if key is None:
            yield gate, gate
            return
        async with postgres.pool(dsn, store, name, connections_max) as pool:
            with postgres.translated(store, dsn):
                async with pool.acquire() as connection:
                    await shards.check_shard(connection, settings, shard, key)
                    await migrations.check(connection, store, PACKAGE)
            yield gate, pool
