"""Applies batches: the checkpoint moves in the transaction in which the projection's function writes."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, Final, TypeAlias

import asyncpg
from asyncpg.connection import LoggedQuery

from gatelog.core import logs, postgres, services
from gatelog.core.consumer_errors import ProjectionFailedError, SessionChangedError, TransactionEndedError
from gatelog.core.errors import PostgresUnavailableError
from gatelog.core.telling import told
from gatelog.reader.subscriptions.checkpoints import Batch, Checkpoints, Move, PartitionLostError, Work
from gatelog.reader.subscriptions.merge import Place
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.parts import as_read

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Function: TypeAlias = Callable[[Connection, Sequence[RecordedEvent[Any]]], Awaitable[None]]
ATTEMPTS_MAX: Final = 8  # of a batch that collided with other transactions
BACKOFF_S: Final = 0.02

_CAUGHT: Final = asyncpg.InFailedSQLTransactionError  # the error that counts came before, and the function kept it
_COLLIDED: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
_log = logs.logger("projection")


def is_cancelled() -> bool:
    """Say whether somebody cancels the task that runs."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())


class _FunctionError(Exception):
    """The function raised its cause: an error of Postgres there is not one of ours."""


class Applier:
    """Applies the batches of one member, one after the other, on a connection of its own."""

    def __init__(
        self,
        projection: str,
        connection: Connection,
        where: tuple[str, str],
        checkpoints: Checkpoints,
        function: Function,
        types: Collection[str] | None,
        place_of: Callable[[RecordedEvent], Place],
    ) -> None:
        """``where``: store and DSN, for errors. ``types``: what the function is given; the rest passes by."""
        self._projection = projection
        self._connection = connection
        self._where = where
        self._checkpoints = checkpoints
        self._function = function
        self._types = types
        self._place_of = place_of
        self._search_path: str | None = None
        self._heard: list[BaseException] = []  # what statements have failed of

    async def apply(self, batch: Batch) -> None:
        """Write a batch and move its partitions, or neither.

        A batch in which the function fails is halved, until it is known which event it fails on: everything before
        that one is written. Meanwhile it is heard which errors the function catches.

        Raises:
            PartitionLostError: a partition has another holder; nothing was written.
            TransactionEndedError: the function has ended the transaction.
            SessionChangedError: the function has changed the session for batches to come.
            ProjectionFailedError: the function raised an error, or caught one of Postgres, which is its cause.
            PostgresUnavailableError: no answer; the batch was written or not, which the checkpoints tell.
        """
        todo, is_heard = [batch], False
        with ExitStack() as listening:
            while todo:
                batch = todo.pop()
                self._heard.clear()
                try:
                    await self._colliding(batch)
                except (PartitionLostError, PostgresUnavailableError, TransactionEndedError, SessionChangedError):
                    raise
                except Exception as error:  # noqa: BLE001 - it is raised with the event that it fails on
                    cause = error.__cause__ if isinstance(error, _FunctionError) else error
                    if len(batch.events) > 1:
                        todo.extend(reversed(self._halves(batch)))
                    elif isinstance(cause, _CAUGHT) and not is_heard:
                        todo.append(batch)
                    else:
                        first = self._first(cause)
                        raise self._failed(batch, error, first) from first
                    if not is_heard:
                        listening.enter_context(self._connection.query_logger(self._hear))
                        is_heard = True

    def _hear(self, query: LoggedQuery) -> None:
        if query.exception is not None and not isinstance(query.exception, _CAUGHT):
            self._heard.append(query.exception)

    def _first(self, cause: BaseException | None) -> BaseException | None:
        """Return the error after which Postgres took no more, where it was heard; earlier ones were legal."""
        return self._heard[-1] if self._heard and isinstance(cause, _CAUGHT) else cause

    async def _colliding(self, batch: Batch) -> None:
        for attempt in range(ATTEMPTS_MAX):
            try:
                return await self._once(batch)
            except (_FunctionError, *_COLLIDED) as error:
                cause = error.__cause__ if isinstance(error, _FunctionError) else error
                if attempt == ATTEMPTS_MAX - 1 or not isinstance(cause, _COLLIDED):
                    raise
                _log.info("projection.collided", projection=self._projection, error=told(cause), attempt=attempt + 1)
                await asyncio.sleep(BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        return None

    async def _once(self, batch: Batch) -> None:
        connection = self._connection
        events = as_read(list(batch.events), self._types)
        with postgres.translated(*self._where):
            async with connection.transaction():
                work = await self._checkpoints.advance(connection, batch.moves)
                if events:
                    self._check_session(work)
                    await self._call(events, work)
        self._checkpoints.moved(batch.moves)

    def _check_session(self, work: Work) -> None:
        """The search path tells one build's tables from another's."""
        self._search_path = self._search_path or work.search_path
        if work.search_path != self._search_path:
            raise SessionChangedError(self._projection, self._search_path, work.search_path)

    async def _call(self, events: Sequence[RecordedEvent], work: Work) -> None:
        """Call the function, and ask whether its transaction can be committed: asyncpg's COMMIT does not tell."""
        connection = self._connection
        try:
            with services.at_work:
                await self._function(connection, events)
            is_same = connection.is_in_transaction() and await self._checkpoints.is_open(connection, work)
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise _FunctionError from error  # of something that the function waited for
        except Exception as error:
            if connection.is_closed():
                raise  # it was the connection
            await self._silence()
            raise _FunctionError from error
        if not is_same:
            raise TransactionEndedError(self._projection)

    async def _silence(self) -> None:
        """Wait for a statement of a task that the function has left behind: before that, there is no rollback."""
        while not self._connection.is_closed():
            with suppress(asyncpg.PostgresError):
                try:
                    await self._connection.execute("SELECT")
                except asyncpg.InterfaceError:  # another one is under way
                    await asyncio.sleep(BACKOFF_S)
                    continue
            return

    def _failed(self, batch: Batch, error: Exception, cause: BaseException | None) -> Exception:
        if not batch.events:
            return error
        (event,) = batch.events
        return ProjectionFailedError(self._projection, event.stream, event.version, event.position, event.type, cause)

    def _halves(self, batch: Batch) -> list[Batch]:
        """Offsets in the middle are not known; positions are, and by them what was handled is told."""
        middle = len(batch.events) // 2
        first, second = batch.events[:middle], batch.events[middle:]
        moves: dict[Place, Move] = {}
        for event in first:
            place = self._place_of(event)
            assert event.position is not None
            count = moves[place].events + 1 if place in moves else 1
            moves[place] = Move(replace(self._checkpoints[place], position=event.position), count)
        rest = {
            place: Move(move.upto, move.events - (moves[place].events if place in moves else 0))
            for place, move in batch.moves.items()
        }
        return [Batch(first, moves), Batch(second, rest)]
