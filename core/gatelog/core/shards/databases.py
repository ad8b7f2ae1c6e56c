"""The databases of a store, opened and checked: the gate's, and those of its index, wherever they are."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from gatelog.core import postgres, shards
from gatelog.core.identity import Identified, identified
from gatelog.core.settings import Settings

if TYPE_CHECKING:  # generic in the type stubs only
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class Databases:
    """One connection each. Without ``index_dsns`` the index is one shard, on the gate's own connection."""

    settings: Identified
    gate: Connection
    shards: Sequence[Connection]

    @property
    def is_apart(self) -> bool:
        """Whether the index is in other databases than the gate."""
        return bool(self.settings.index_dsns)

    def shard_of(self, stream: str) -> int:
        """Return the number of the shard that holds a stream."""
        return shards.shard_of(stream.encode(), len(self.shards)) if len(self.shards) > 1 else 0

    def named(self, shard: int) -> str:
        """Return what is put before a message about a shard: nothing, if there is one only."""
        return f"shard {shard}: " if len(self.shards) > 1 else ""

    async def ask(self, shard: int, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Run a statement in a shard's database.

        Raises:
            PostgresUnavailableError: no answer.
            StoreNotInitialisedError: a table is missing.
        """
        with postgres.translated(self.settings.store, shards.dsn_of(self.settings, shard)):
            return await self.shards[shard].fetch(statement, *arguments)

    async def ask_all(self, statement: str, *arguments: object) -> list[Sequence[asyncpg.Record]]:
        """Run a statement in each shard's database, one after the other; raises what ``ask`` raises."""
        return [await self.ask(number, statement, *arguments) for number in range(len(self.shards))]


@asynccontextmanager
async def opened(settings: Settings, name: str) -> AsyncIterator[Databases]:
    """Connect to the databases of a store as the application ``name``; the connections are dropped at the end.

    Raises:
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        IndexPlaceError: a database is not what the settings say.
        PostgresUnavailableError: one of them does not answer.
    """
    store = settings.store
    async with AsyncExitStack() as stack:

        async def connection_to(dsn: str) -> Connection:
            connection = await postgres.connect(dsn, store, name)
            stack.callback(connection.terminate)
            return connection

        gate = await connection_to(settings.dsn)
        with postgres.translated(store, settings.dsn):
            key = await shards.check_gate(gate, settings)
        held = [gate] if key is None else []
        for number, dsn in enumerate(settings.shard_dsns if key is not None else ()):
            held.append(await connection_to(dsn))
            with postgres.translated(store, dsn):
                assert key is not None
                await shards.check_shard(held[-1], settings, number, key)
        yield Databases(await identified(settings, gate), gate, held)
