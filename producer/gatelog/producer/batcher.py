"""Micro-batching: what arrives while batches are in flight forms the next one. A lone caller never waits.

A stream is in one batch at a time, so that appends to it keep the order in which they were sent, and batches
never wait for each other's row locks. Within a batch, a stream takes several appends only if all of them
expect ANY; any other second append could not be judged before the first one.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gatelog.core.domain import ANY
from gatelog.core.errors import GatelogError
from gatelog.producer.gate import Appended, StreamWrite

Verdict = list[Appended] | GatelogError
Run = Callable[[Sequence[Sequence[StreamWrite]]], Awaitable[Sequence[Verdict]]]

_SCAN_BATCHES_MAX: Final = 4  # how far a full queue is searched for appends whose stream is free


@dataclass(eq=False, slots=True)
class _Waiting:
    writes: tuple[StreamWrite, ...]
    events: int
    shares: bool
    answer: asyncio.Future[list[Appended]]


class Batcher:
    """Groups appends into batches and hands each caller its own result."""

    def __init__(self, run: Run, *, batches_max: int, batch_events_max: int) -> None:
        """Call ``run`` with batches of up to ``batch_events_max`` events, ``batches_max`` of them at once."""
        self._run = run
        self._batches_max = batches_max
        self._batch_events_max = batch_events_max
        self._queue: deque[_Waiting] = deque()
        self._busy: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._pump_is_due = False

    def submit(self, writes: tuple[StreamWrite, ...]) -> asyncio.Future[list[Appended]]:
        """Queue an append. Cancelling the future before its batch starts withdraws it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Appended]] = loop.create_future()
        shares = len(writes) == 1 and writes[0].expected is ANY
        self._queue.append(_Waiting(writes, sum(len(w.events) for w in writes), shares, answer))
        self._pump_soon()
        return answer

    async def drain(self) -> None:
        """Wait until everything queued has its answer."""
        while self._queue or self._running:
            await asyncio.wait([*self._running]) if self._running else await asyncio.sleep(0)

    def _pump_soon(self) -> None:
        """Start batches once the callers that are ready in this turn of the event loop have all submitted."""
        if not self._pump_is_due:
            self._pump_is_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_is_due = False
        while self._queue and len(self._running) < self._batches_max:
            batch = self._take()
            if not batch:
                return  # every stream in reach is in flight; its batch's end pumps again
            task = asyncio.create_task(self._carry_out(batch))
            self._running.add(task)

    def _take(self) -> list[_Waiting]:
        """Take the next batch off the queue; what cannot go yet keeps its place, and its stream's later ones too."""
        batch: list[_Waiting] = []
        events = scanned = 0
        shared: set[str] = set()
        closed: set[str] = set()
        left: list[_Waiting] = []
        while self._queue and scanned < _SCAN_BATCHES_MAX * self._batch_events_max:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            if batch and events + waiting.events > self._batch_events_max:
                left.append(waiting)
                break
            scanned += 1
            streams = [write.stream for write in waiting.writes]
            if any(s in self._busy or s in closed or (s in shared and not waiting.shares) for s in streams):
                closed.update(streams)
                left.append(waiting)
                continue
            (shared if waiting.shares else closed).update(streams)
            batch.append(waiting)
            events += waiting.events
        self._queue.extendleft(reversed(left))
        return batch

    async def _carry_out(self, batch: list[_Waiting]) -> None:
        streams = {write.stream for waiting in batch for write in waiting.writes}
        self._busy |= streams
        try:
            verdicts = await self._run([waiting.writes for waiting in batch])
            for waiting, verdict in zip(batch, verdicts, strict=True):
                _answer(waiting, verdict)
        except BaseException as error:
            for waiting in batch:
                _answer(waiting, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._busy -= streams
            task = asyncio.current_task()
            assert task is not None
            self._running.discard(task)
            self._pump_soon()


def _answer(waiting: _Waiting, verdict: list[Appended] | BaseException) -> None:
    if waiting.answer.done():  # its caller was cancelled or gave up
        return
    if isinstance(verdict, BaseException):
        waiting.answer.set_exception(verdict)
    else:
        waiting.answer.set_result(verdict)
