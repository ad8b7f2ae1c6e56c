"""Wakes the relay after appends were committed: one NOTIFY at a time, however many appends there were."""

import asyncio
from collections.abc import Coroutine
from typing import Final, Self

import asyncpg

from gatelog.core import logs, postgres
from gatelog.core.sql import queries
from gatelog.core.telling import told

# Rings that come during a pause wake the relay once. It is short on a quiet store, and grows while they keep coming:
# at full rate a notification costs more than the milliseconds that it saves.
PAUSE_MIN_S: Final = 0.0005
PAUSE_MAX_S: Final = 0.005
WATCH_INTERVAL_S: Final = 0.005
TIMEOUT_S: Final = 5.0

_log = logs.logger("producer")


def channel_of(store: str) -> str:
    """Return the NOTIFY channel on which the relay of a store listens."""
    return f"gatelog_{store}_outbox"


class Doorbell:
    """Side tasks that notify; a lost ring costs a poll interval, never an event."""

    def __init__(self, pool: postgres.Pool, store: str) -> None:
        """Ring through a connection of ``pool``."""
        self._pool = pool
        self._sql = queries("gatelog.producer", "append.sql", store)["ring"].replace("@channel", channel_of(store))
        self._rung = asyncio.Event()
        self._watched: set[postgres.Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def ring(self) -> None:
        """Ask for a wake-up; returns at once."""
        self._rung.set()

    def ring_after(self, connection: postgres.Connection) -> None:
        """Ring when the transaction that is open on a caller's connection has ended.

        A NOTIFY inside it would make its commit, fsync included, queue up with all others that notify.
        """
        if not self._watched:
            self._start(self._watch())
        self._watched.add(connection)

    async def __aenter__(self) -> Self:
        self._start(self._notify())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        pause_s = PAUSE_MIN_S
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                async with self._pool.acquire() as connection:
                    await self._notify_once(connection)
            except postgres.FAILED as error:
                _log.info("doorbell.failed", error=told(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MAX_S) if self._rung.is_set() else PAUSE_MIN_S

    async def _notify_once(self, connection: postgres.Connection) -> None:
        """Give a connection up that does not answer: its pool would wait for it, at the end of the program."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await connection.execute(self._sql)
        except (TimeoutError, asyncio.CancelledError):
            connection.terminate()
            raise

    async def _watch(self) -> None:
        while self._watched:
            await asyncio.sleep(WATCH_INTERVAL_S)
            ended = {connection for connection in self._watched if not _is_in_transaction(connection)}
            if ended:
                self._watched -= ended
                self.ring()


def _is_in_transaction(connection: postgres.Connection) -> bool:
    try:  # a connection that died in a transaction says to the end that it is in one
        return not connection.is_closed() and connection.is_in_transaction()
    except asyncpg.InterfaceError:  # given back to its pool
        return False
