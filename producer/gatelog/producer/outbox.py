"""Keeps the outbox small: events that are in the index leave it."""

import asyncio
from typing import Final

from gatelog.core import logs, postgres, services
from gatelog.core.errors import PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries

INTERVAL_S: Final = 1.0
ROWS_MAX: Final = 10_000

_log = logs.logger("outbox")


class OutboxKeeper:
    """Releases indexed events, oldest first, in small transactions. Any number may run."""

    name = "outbox"

    def __init__(self, settings: Settings) -> None:
        """Work on the outbox of ``settings.store``."""
        self._settings = settings
        self._sql = queries("gatelog.producer", "relay.sql", settings.store)

    async def run(self, stop: asyncio.Event) -> None:
        """Release until ``stop`` is set; an absent Postgres is waited out."""
        while not stop.is_set():
            try:
                await self._release_until(stop)
            except PostgresUnavailableError as error:
                _log.warning("outbox.interrupted", error=str(error))
                await services.wait_any(INTERVAL_S, stop)

    async def _release_until(self, stop: asyncio.Event) -> None:
        settings = self._settings
        async with postgres.pool(settings.dsn, settings.store, "gatelog outbox", 1) as pool:
            with postgres.translated(settings.store, settings.dsn):
                while not stop.is_set():
                    async with pool.acquire() as connection:
                        released = await self.run_once(connection)
                    if released < ROWS_MAX:
                        await services.wait_any(INTERVAL_S, stop)

    async def run_once(self, connection: postgres.Connection) -> int:
        """Release up to 10,000 events and return how many went."""
        async with connection.transaction():
            row = await connection.fetchrow(self._sql["release"], ROWS_MAX)
            assert row is not None
            if row["floor"] is not None:
                await connection.execute(self._sql["raise_floor"], row["floor"])
        return int(row["released"])
