"""Keeps the frontier of an index that lives outside the gate's database: finds it, tells the shards and the gate.

A shard's frontier says that it holds all of its own events up to there. The store's is what the shards hold together;
it is found by walking from the lowest shard's on, written to the shards first and to the gate after them. So the gate
never believes more than each shard knows: a shard that knows less was restored or made anew.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from gatelog.core import logs, postgres, services, shards
from gatelog.core.errors import IndexPlaceError, PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.producer.elsewhere.walk import walk

INTERVAL_S: Final = 0.05
RETRY_INTERVAL_S: Final = 1.0

_log = logs.logger("frontier")


class FrontierKeeper:
    """Moves the frontier of an index in other databases. Any number may run."""

    name = "frontier"

    def __init__(self, settings: Settings) -> None:
        """Check the settings; nothing is opened yet.

        Raises:
            SettingsError: Postgres is not configured.
            IndexPlaceError: the index is in the gate's own database, where indexers keep the frontier.
        """
        if not settings.shard_dsns:
            raise IndexPlaceError(settings.store, "index_dsns is not set: indexers keep the frontier themselves.")
        self._settings = settings
        self._sql = queries("gatelog.producer.elsewhere", "frontier.sql", settings.store)

    async def run(self, stop: asyncio.Event) -> None:
        """Move it until ``stop`` is set; databases that are away are waited for.

        Raises:
            IndexPlaceError: a database is not what the settings say.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
        """
        while not stop.is_set():
            try:
                async with self.connections() as (gate, held):
                    while not stop.is_set():
                        await self.run_once(gate, held)
                        await services.wait_any(INTERVAL_S, stop)
            except PostgresUnavailableError as error:
                _log.warning("frontier.interrupted", error=str(error), retry_in_s=RETRY_INTERVAL_S)
                await services.wait_any(RETRY_INTERVAL_S, stop)

    @asynccontextmanager
    async def connections(self) -> AsyncIterator[tuple[postgres.Connection, Sequence[postgres.Connection]]]:
        """Yield a connection to the gate's database and one to each shard, all of them checked."""
        settings = self._settings
        async with AsyncExitStack() as opened:

            async def open_(dsn: str) -> postgres.Connection:
                connection = await postgres.connect(dsn, settings.store, "gatelog frontier")
                opened.callback(connection.terminate)
                return connection

            with postgres.translated(settings.store, settings.dsn):
                gate = await open_(settings.dsn)
                key = await shards.check_gate(gate, settings)
            assert key is not None
            held = []
            for number, dsn in enumerate(settings.shard_dsns):
                with postgres.translated(settings.store, dsn):
                    held.append(await open_(dsn))
                    await shards.check_shard(held[-1], settings, number, key)
            yield gate, held

    async def run_once(self, gate: postgres.Connection, held: Sequence[postgres.Connection]) -> int:
        """Find the frontier, tell it, and return it."""
        known = [await self._ask(number, each, "frontier") for number, each in enumerate(held)]
        front: int = min(known)

        async def positions(after: int, limit: int) -> Sequence[Sequence[int]]:
            asked = [self._ask(number, each, "held", after, limit) for number, each in enumerate(held)]
            return list(await asyncio.gather(*asked))

        if len(held) > 1:  # one alone knows by itself
            front = await walk(front, positions)
            for number, each in enumerate(held):
                if known[number] < front:
                    await self._ask(number, each, "raise_shard", front)
        with postgres.translated(self._settings.store, self._settings.dsn):
            await gate.execute(self._sql["raise_gate"], front)
        return front

    async def _ask(self, number: int, shard: postgres.Connection, statement: str, *arguments: int) -> Any:  # noqa: ANN401 - what the statement answers
        with postgres.translated(self._settings.store, self._settings.shard_dsns[number]):
            return await shard.fetchval(self._sql[statement], *arguments)
