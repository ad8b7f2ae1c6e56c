"""Applies batches: the checkpoint moves in the transaction in which the projection's function writes."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import asyncpg

from gatelog.core import logs, postgres
from gatelog.core.consumer_errors import ProjectionFailedError, TransactionEndedError
from gatelog.core.errors import PostgresUnavailableError
from gatelog.reader.subscriptions.checkpoints import Batch, Checkpoints, Move, PartitionLostError
from gatelog.reader.subscriptions.merge import Place
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.parts import as_read

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Function: TypeAlias = Callable[[Connection, Sequence[RecordedEvent[Any]]], Awaitable[None]]
ATTEMPTS_MAX: Final = 8  # of a batch that collided with other transactions
BACKOFF_S: Final = 0.02

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

    async def apply(self, batch: Batch) -> None:
        """Write a batch and move its partitions, or neither.

        A batch in which the function fails is halved, until it is known which event it fails on: everything before
        that one is written.

        Raises:
            PartitionLostError: a partition has another holder; nothing was written.
            TransactionEndedError: the function has ended the transaction.
            ProjectionFailedError: the function raised an error, which is its cause.
            PostgresUnavailableError: no answer; the batch was written or not, which the checkpoints tell.
        """
        todo = [batch]
        while todo:
            batch = todo.pop()
            try:
                await self._colliding(batch)
            except (PartitionLostError, PostgresUnavailableError, TransactionEndedError):
                raise
            except Exception as error:  # noqa: BLE001 - it is raised with the event that it fails on
                cause = error.__cause__ if isinstance(error, _FunctionError) else error
                if len(batch.events) <= 1:
                    raise self._failed(batch, error) from cause
                todo.extend(reversed(self._halves(batch)))

    async def _colliding(self, batch: Batch) -> None:
        for attempt in range(ATTEMPTS_MAX):
            try:
                return await self._once(batch)
            except (_FunctionError, *_COLLIDED) as error:
                cause = error.__cause__ if isinstance(error, _FunctionError) else error
                if attempt == ATTEMPTS_MAX - 1 or not isinstance(cause, _COLLIDED):
                    raise
                _log.info("projection.collided", projection=self._projection, error=str(cause), attempt=attempt + 1)
                await asyncio.sleep(BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        return None

    async def _once(self, batch: Batch) -> None:
        connection = self._connection
        events = as_read(list(batch.events), self._types)
        with postgres.translated(*self._where):
            async with connection.transaction():
                await self._checkpoints.advance(connection, batch.moves)
                if events:
                    await self._call(events)
        self._checkpoints.moved(batch.moves)

    async def _call(self, events: Sequence[RecordedEvent]) -> None:
        try:
            await self._function(self._connection, events)
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            raise _FunctionError from error  # of something that the function waited for
        except Exception as error:
            if self._connection.is_closed():
                raise  # it was the connection
            raise _FunctionError from error
        if not self._connection.is_in_transaction():
            raise TransactionEndedError(self._projection)

    def _failed(self, batch: Batch, error: Exception) -> Exception:
        if not batch.events:
            return error
        (event,) = batch.events
        return ProjectionFailedError(self._projection, event.stream, event.version, event.position, event.type)

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
