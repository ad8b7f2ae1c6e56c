"""Keeps the frontier of an index that lives outside the gate's database: finds it, tells the shards and the gate.

A shard's frontier says that it holds all of its own events up to there. The store's is what the shards hold together;
it is found by walking from the lowest shard's on, written to the shards first and to the gate after them. So the gate
never believes more than each shard knows: a shard that knows less was restored or made anew.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from gatelog.core import logs, postgres, services
from gatelog.core.errors import IndexPlaceError, PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.core.shards.databases import Databases, opened
from gatelog.core.sql import queries
from gatelog.core.telling import told
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
                async with opened(self._settings, "gatelog frontier") as databases:
                    while not stop.is_set():
                        await self.run_once(databases)
                        await services.wait_any(INTERVAL_S, stop)
            except PostgresUnavailableError as error:
                _log.warning("frontier.interrupted", error=told(error), retry_in_s=RETRY_INTERVAL_S)
                await services.wait_any(RETRY_INTERVAL_S, stop)

    async def reach(self) -> int:
        """Move it as far as it goes now, and return it; raises what ``run`` raises, and when a database is away.

        Raises:
            PostgresUnavailableError: a database does not answer.
        """
        async with opened(self._settings, "gatelog frontier") as databases:
            front, reached = -1, await self.run_once(databases)
            while reached > front:
                front, reached = reached, await self.run_once(databases)
            return reached

    async def run_once(self, databases: Databases) -> int:
        """Find the frontier, tell it, and return it."""
        numbers = range(len(databases.shards))
        known = [await _value(databases, number, self._sql["frontier"]) for number in numbers]
        front: int = min(known)

        async def positions(after: int, limit: int) -> Sequence[Sequence[int]]:
            held = self._sql["held"]
            return list(await asyncio.gather(*(_value(databases, number, held, after, limit) for number in numbers)))

        if len(numbers) > 1:  # one alone knows by itself
            front = await walk(front, positions)
            for number in numbers:
                if known[number] < front:
                    await databases.ask(number, self._sql["raise_shard"], known[number], front)
        with postgres.translated(self._settings.store, self._settings.dsn):
            await databases.gate.execute(self._sql["raise_gate"], front)
        return front


async def _value(databases: Databases, shard: int, statement: str, *arguments: int) -> Any:  # noqa: ANN401 - what the statement answers
    return (await databases.ask(shard, statement, *arguments))[0][0]
