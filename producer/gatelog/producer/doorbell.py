"""Wakes the relay after appends were committed: one NOTIFY at a time, however many appends there were."""

import asyncio
from typing import Final, Self

import asyncpg

from gatelog.core import logs, postgres
from gatelog.core.sql import queries

INTERVAL_S: Final = 0.002  # rings closer to each other than this wake the same tick

_log = logs.logger("producer")


def channel_of(store: str) -> str:
    """Return the NOTIFY channel on which the relay of a store listens."""
    return f"gatelog_{store}_outbox"


class Doorbell:
    """A side task that sends the notification; a lost ring costs a poll interval, never an event."""

    def __init__(self, pool: postgres.Pool, store: str) -> None:
        """Ring through a connection of ``pool``."""
        self._pool = pool
        self._channel = channel_of(store)
        self._sql = queries("gatelog.producer", "append.sql", store)["ring"]
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Ask for a wake-up; returns at once."""
        self._rung.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _loop(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    # A NOTIFY has nothing to lose in a crash: it need not wait for the disk.
                    await connection.execute("SET LOCAL synchronous_commit = off")
                    await connection.execute(self._sql, self._channel)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                _log.info("doorbell.failed", error=str(error))
            await asyncio.sleep(INTERVAL_S)
