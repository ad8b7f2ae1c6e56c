"""Micro-batching: what arrives while batches are in flight forms the next one. A lone caller never waits.

A stream is in one batch at a time, so that appends to it keep the order in which they were sent, and batches
never wait for each other's row locks. Within a batch, a stream takes several appends only if all of them
expect ANY; any other second append could not be judged before the first one.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatelog.core.domain import ANY
from gatelog.producer.gate import LATER, Appended, Gate, Verdict, Writes, bytes_of

LATER_S: Final = 0.05  # until a stream that is locked from outside is tried again
BATCH_BYTES_MAX: Final = 32 * 1024 * 1024  # of payload, unless one append alone has more
_SHARE_APPENDS_MIN: Final = 8  # a batch has a fixed cost: very small ones do not pay
_SCAN_BATCHES_MAX: Final = 4  # how far a full queue is searched for appends whose stream is free


@dataclass(eq=False, slots=True)
class _Waiting:
    writes: Writes
    events: int
    bytes: int
    shares: bool
    answer: asyncio.Future[list[Appended]]
    deadline: float
    alone: bool = False  # its stream was found locked: it holds up no other append


class Batcher:
    """Groups appends into batches and hands each caller its own result."""

    def __init__(self, gate: Gate, *, batches_max: int, batch_events_max: int, timeout_s: float) -> None:
        """Ask ``gate`` for up to ``batch_events_max`` events at once, in ``batches_max`` batches at once."""
        self._gate = gate
        self._batches_max = batches_max
        self._batch_events_max = batch_events_max
        self._timeout_s = timeout_s
        self._queue: deque[_Waiting] = deque()
        self._open: deque[_Waiting] = deque()  # in order of their deadlines, because all have the same timeout
        self._busy: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._in_flight = 0  # appends
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, writes: Writes) -> asyncio.Future[list[Appended]]:
        """Queue an append. Its answer is a TimeoutError when none came in time.

        Cancelling the future before its batch starts withdraws the append.
        """
        loop = asyncio.get_running_loop()
        shares = len(writes) == 1 and writes[0].expected is ANY and not writes[0].closes
        events = len(writes[0].events) if len(writes) == 1 else sum(len(write.events) for write in writes)
        waiting = _Waiting(
            writes, events, bytes_of(writes), shares, loop.create_future(), loop.time() + self._timeout_s
        )
        self._queue.append(waiting)
        self._open.append(waiting)
        if self._timer is None:
            self._timer = loop.call_at(waiting.deadline, self._expire)
        self._work_soon()
        return waiting.answer

    async def drain(self) -> None:
        """Wait until everything has its answer."""
        while left := [waiting.answer for waiting in self._open if not waiting.answer.done()]:
            await asyncio.wait(left)
        if self._running:
            await asyncio.wait(self._running)
        if self._timer is not None:
            self._timer.cancel()

    def abandon(self) -> None:
        """End what is under way, and answer nobody any more."""
        for task in self._running:
            task.cancel()
        for waiting in self._open:
            waiting.answer.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while self._open and (self._open[0].answer.done() or self._open[0].deadline <= loop.time()):
            _answer(self._open.popleft(), TimeoutError())
        self._timer = loop.call_at(self._open[0].deadline, self._expire) if self._open else None

    def _work_soon(self) -> None:
        """Start a worker, unless enough of them are at work.

        It begins when the callers that are ready in this turn of the event loop have all submitted.
        """
        if len(self._running) < self._batches_max:
            self._running.add(asyncio.get_running_loop().create_task(self._work()))

    async def _work(self) -> None:
        """Carry out batch after batch until nothing is left that could go now."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while batch := self._take():
                await self._carry_out(batch)
                await asyncio.sleep(0)  # those who have just got their answer may have more for the next batch
        finally:
            self._running.discard(task)  # here, and not when the task is done: a submit in between would wait for it

    def _take(self) -> list[_Waiting]:
        """Take the next batch off the queue; what cannot go yet keeps its place, and its stream's later ones too."""
        batch: list[_Waiting] = []
        events = size = scanned = 0
        shared: set[str] = set()
        closed: set[str] = set()
        left: list[_Waiting] = []
        appends_max = self._fair_share()
        while self._queue and len(batch) < appends_max and scanned < _SCAN_BATCHES_MAX * self._batch_events_max:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            full = events + waiting.events > self._batch_events_max or size + waiting.bytes > BATCH_BYTES_MAX
            if batch and (batch[0].alone or full):
                left.append(waiting)
                break
            scanned += 1
            streams = [write.stream for write in waiting.writes]
            taken = any(s in self._busy or s in closed or (s in shared and not waiting.shares) for s in streams)
            if taken or (waiting.alone and batch):
                closed.update(streams)
                left.append(waiting)
                continue
            (shared if waiting.shares else closed).update(streams)
            batch.append(waiting)
            events += waiting.events
            size += waiting.bytes
        self._queue.extendleft(reversed(left))
        return batch

    def _fair_share(self) -> int:
        """As many as every worker's batch would have if all were alike: while Postgres has one, the next is made."""
        return max(_SHARE_APPENDS_MIN, -(-(len(self._queue) + self._in_flight) // self._batches_max))

    async def _carry_out(self, batch: list[_Waiting]) -> None:
        self._busy |= _streams(batch)
        put_off: list[_Waiting] = []
        self._in_flight += len(batch)
        try:
            appends = [waiting.writes for waiting in batch]
            verdicts = await self._gate.append(appends, patient=not batch[0].alone)
            for waiting, verdict in zip(batch, verdicts, strict=True):
                if verdict is LATER:
                    put_off.append(waiting)
                else:
                    _answer(waiting, verdict)
        except BaseException as error:
            for waiting in batch:
                _answer(waiting, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._in_flight -= len(batch)
            self._release(batch)
            if put_off:  # their streams stay busy meanwhile, so that nothing overtakes them
                self._busy |= _streams(put_off)
                asyncio.get_running_loop().call_later(LATER_S, self._try_again, put_off)

    def _try_again(self, put_off: Sequence[_Waiting]) -> None:
        for waiting in put_off:
            waiting.alone = True
        self._queue.extendleft(reversed(put_off))
        self._release(put_off)
        self._work_soon()

    def _release(self, batch: Sequence[_Waiting]) -> None:
        self._busy -= _streams(batch)
        while self._open and self._open[0].answer.done():
            self._open.popleft()


def _streams(batch: Sequence[_Waiting]) -> set[str]:
    return {write.stream for waiting in batch for write in waiting.writes}


def _answer(waiting: _Waiting, verdict: Verdict | BaseException) -> None:
    if waiting.answer.done():  # its caller was cancelled or gave up
        return
    if isinstance(verdict, BaseException):
        waiting.answer.set_exception(verdict)
    elif verdict is not LATER:
        waiting.answer.set_result(verdict)
