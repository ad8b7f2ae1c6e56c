"""Reads of streams, those that come at the same time in one statement.

A lone read goes at once. What arrives while ``FLIGHTS_MAX`` statements are under way forms the next one: a statement
costs a process several times what it costs to read ten rows. A statement begins after every read in it has begun, so
that each sees what was acknowledged before.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import asyncpg

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.schemas.envelope import Row

FLIGHTS_MAX: Final = 2
STREAMS_MAX: Final = 64  # in one statement
SHARED_ROWS_MAX: Final = 100  # a read that may take more goes alone: its rows would hold up those of others
_NUMBER: Final = 12  # place, in a row of a shared statement, of the read that it belongs to, from 1


class StreamRead(NamedTuple):
    """The first ``limit`` events of a stream with versions ``lowest`` to ``highest``."""

    stream: str
    lowest: int
    highest: int
    limit: int


class StreamReads:
    """Reads in one direction, over up to ``FLIGHTS_MAX`` connections of their own and, for many rows, the pool's."""

    def __init__(self, settings: Settings, pool: postgres.Pool, one: str, many: str) -> None:
        """Read with the statements ``one`` and ``many``; connections are opened when they are needed."""
        self._settings = settings
        self._pool = pool
        self._one, self._many = one, many
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []
        self._flights = 0
        self._waiting: list[tuple[StreamRead, asyncio.Future[Sequence[Row]]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what is under way, and close the connections."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._idle:
            await self._idle.pop().close(timeout=postgres.CONNECT_TIMEOUT_S)

    async def read(self, wanted: StreamRead) -> Sequence[Row]:
        """Return the rows of a read.

        Raises:
            PostgresUnavailableError: no answer, for this read and for those that shared its statement.
        """
        if wanted.limit > SHARED_ROWS_MAX:
            with postgres.translated(self._settings.store, self._settings.dsn):
                found: Sequence[Any] = await self._pool.fetch(self._one, *wanted)
                return found
        if self._flights >= FLIGHTS_MAX:
            answer: asyncio.Future[Sequence[Row]] = asyncio.get_running_loop().create_future()
            self._waiting.append((wanted, answer))
            return await answer
        self._flights += 1
        try:
            return await self._fetch(self._one, *wanted)
        finally:
            self._landed()

    def _landed(self) -> None:
        """Let those who wait start, with the flight that has ended."""
        if not self._waiting:
            self._flights -= 1
            return
        task = asyncio.create_task(self._share())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _share(self) -> None:
        taken, self._waiting = self._waiting[:STREAMS_MAX], self._waiting[STREAMS_MAX:]
        reads = [read for read, answer in taken if not answer.done()]  # who waited may have been cancelled
        answers = [answer for _, answer in taken if not answer.done()]
        try:
            if len(reads) == 1:
                found = [await self._fetch(self._one, *reads[0])]
            elif reads:
                found = _apart(await self._fetch(self._many, *map(list, zip(*reads, strict=True))), len(reads))
            else:
                found = []
        except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for answer, rows in zip(answers, found, strict=True):
                if not answer.done():
                    answer.set_result(rows)
        finally:
            self._landed()

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        """Use a connection that is kept: taking one from a pool, and giving it back, costs as much as ten rows."""
        settings = self._settings
        while self._idle and self._idle[-1].is_closed():
            self._idle.pop()
        connection = self._idle.pop() if self._idle else await _connected(settings)
        try:
            with postgres.translated(settings.store, settings.dsn):
                found: Sequence[Any] = await connection.fetch(statement, *arguments)
        except BaseException:
            connection.terminate()
            raise
        self._idle.append(connection)
        return found


async def _connected(settings: Settings) -> "asyncpg.Connection[asyncpg.Record]":
    return await postgres.connect(settings.dsn, settings.store, "gatelog reader")


def _apart(rows: Sequence[Row], count: int) -> list[Sequence[Row]]:
    """Return the rows of each read; they come in the order of the reads."""
    found: list[list[Row]] = [[] for _ in range(count)]
    for row in rows:
        found[row[_NUMBER] - 1].append(row)
    return list(found)
