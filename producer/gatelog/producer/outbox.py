"""Keeps the outbox small: its two segments take turns, and one is emptied as a whole when the index holds all of it.

The steps are in the SQL function ``rotate_outbox``; here they are taken in time.
"""

import asyncio
from datetime import timedelta
from typing import Final

import asyncpg

from gatelog.core import logs, postgres, services
from gatelog.core.errors import PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.telling import told

INTERVAL_S: Final = 1.0
LOCK_TIMEOUT_MS: Final = 50  # appends wait as long behind a step that has to wait itself

_log = logs.logger("outbox")


class OutboxKeeper:
    """Rotates the outbox. Any number may run."""

    name = "outbox"

    def __init__(self, settings: Settings) -> None:
        """Work on the outbox of ``settings.store``."""
        self._settings = settings
        self._sql = queries("gatelog.producer", "relay.sql", settings.store)
        self._next_floor = self._next_floor_position = 0
        self._snapshot_age_max = timedelta(seconds=settings.outbox_snapshot_age_max_s)

    async def run(self, stop: asyncio.Event) -> None:
        """Rotate until ``stop`` is set; an absent Postgres is waited out."""
        while not stop.is_set():
            try:
                await self._keep_until(stop)
            except PostgresUnavailableError as error:
                _log.warning("outbox.interrupted", error=told(error))
                await services.wait_any(INTERVAL_S, stop)

    async def _keep_until(self, stop: asyncio.Event) -> None:
        settings = self._settings
        patience = f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"
        connection = await postgres.connect_lent(settings.dsn, settings.store, "gatelog outbox", patience)
        try:
            with postgres.translated(settings.store, settings.dsn):
                while not stop.is_set():
                    if await self.run_once(connection) is None:  # else the next step may be ready, too
                        await services.wait_any(INTERVAL_S, stop)
        finally:
            connection.terminate()

    async def run_once(self, connection: postgres.Connection) -> str | None:
        """Say what waits for nothing any more, and take the next step of a rotation; return which, if any."""
        await self._raise_floor(connection)
        try:
            step: str | None = await connection.fetchval(
                self._sql["rotate"], self._settings.outbox_segment_events, self._snapshot_age_max
            )
        except asyncpg.LockNotAvailableError:
            _log.info("outbox.busy", hint="a transaction that has used the outbox is open: tried again")
            return None
        if step is not None:
            _log.info("outbox.rotation", step=step)
        return step

    async def _raise_floor(self, connection: postgres.Connection) -> None:
        """Let the floor follow to where the relay was when the index had not come as far."""
        now = await connection.fetchrow(self._sql["standing"])
        assert now is not None
        if now["indexed"] >= self._next_floor_position:
            await connection.execute(self._sql["raise_floor"], self._next_floor)
            self._next_floor, self._next_floor_position = now["done_id"], now["position"]
