"""The tasks that handle events: as many as may run at once, woken when something is ready."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gatelog.reader.subscriptions.lanes import Lanes
from gatelog.reader.subscriptions.work import Item, Key, Partition

SLICE_S: Final = 0.02  # a handler that never waits must let the others run
CANCEL_S: Final = 1.0  # how long a cancelled handler may take to end


@dataclass(slots=True, eq=False)
class Worker:
    """A task that handles one event after the other."""

    task: "asyncio.Task[None] | None" = None
    key: Key = ""
    item: Item | None = None
    since: float = 0.0
    slice_ends: float = 0.0
    cancelled_for: Literal["timeout", "revoked", "stopped"] | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether the event in hand was to be left to whoever has its partition next."""
        return self.cancelled_for in {"revoked", "stopped"}


Handle = Callable[[Worker, Key, Item], Awaitable[None]]


class Workers:
    """Take what is ready in the lanes and handle it. One that dies of something else is reported to ``failed``."""

    def __init__(
        self,
        lanes: Lanes[Key, Item],
        concurrency: int,
        handle: Handle,
        abandon: Callable[[Key, Item], None],
        rest: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start none yet. ``rest`` is called when a worker finds nothing to do."""
        self.taken: dict[Key, Worker] = {}
        self._lanes = lanes
        self._concurrency = concurrency
        self._handle = handle
        self._abandon = abandon
        self._rest = rest
        self._failed = failed
        self._all: set[Worker] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._settling: list[asyncio.Future[None]] = []  # who waits for a handler to end
        self._is_draining = self._is_stopped = False

    def wake(self) -> None:
        """Have as many workers as there is work for."""
        wanted = self._lanes.ready
        while wanted > 0 and self._idle:
            future = self._idle.pop()
            if not future.done():
                future.set_result(None)
                wanted -= 1
        while wanted > 0 and len(self._all) < self._concurrency and not self._is_draining:
            worker = Worker()
            self._all.add(worker)
            worker.task = asyncio.create_task(self._work(worker), name="subscription handler")
            wanted -= 1

    def stop_at_once(self) -> None:
        """Let workers end after what they have in hand."""
        self._is_stopped = self._is_draining = True

    async def drain(self, timeout_s: float) -> int:
        """Handle what is left in the lanes and end; return how many had to be cancelled after ``timeout_s``."""
        self._is_draining = True
        for future in self._idle:
            if not future.done():
                future.set_result(None)
        tasks = [worker.task for worker in self._all if worker.task is not None]
        if not tasks:
            return 0
        _done, late = await asyncio.wait(tasks, timeout=timeout_s)
        if late:
            self._is_stopped = True
            self.cancel(self._all, "stopped")
            await asyncio.wait(late, timeout=CANCEL_S)
        return len(late)

    @property
    def busy(self) -> list[Worker]:
        """The workers that handle something; not those whose time was over at the stop: nobody waits for them."""
        return [worker for worker in self._all if worker.item is not None and worker.cancelled_for != "stopped"]

    def cancel(self, workers: Iterable[Worker], reason: Literal["timeout", "revoked", "stopped"]) -> None:
        """Cancel what workers handle; they themselves go on. What swallowed one reason is told of the next."""
        for worker in list(workers):
            if worker.task is not None and worker.cancelled_for != reason:
                worker.cancelled_for = reason
                worker.task.cancel()

    async def let_finish(self, partitions: Sequence[Partition], timeout_s: float) -> None:
        """Return when nothing of ``partitions`` runs or is ready to, or after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self._is_busy(partitions) and (left := deadline - time.monotonic()) > 0:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settling.append(future)
            await asyncio.wait([future], timeout=left)

    def _is_busy(self, partitions: Sequence[Partition]) -> bool:
        if any(worker.item is not None and worker.item.partition in partitions for worker in self.busy):
            return True
        return not self._is_stopped and bool(self._all) and self._lanes.any_ready(lambda i: i.partition in partitions)

    async def _work(self, worker: Worker) -> None:
        assert worker.task is not None
        worker.slice_ends = time.monotonic() + SLICE_S
        try:
            while not (self._is_stopped or (self._is_draining and not self._lanes.ready)):
                try:
                    await self._step(worker)
                except asyncio.CancelledError:
                    if worker.cancelled_for is None:
                        raise
                    while worker.task.uncancel():
                        pass
                    worker.cancelled_for = None
                    if worker.item is not None:
                        self._abandon(worker.key, worker.item)
                finally:
                    self._free(worker)
        except asyncio.CancelledError:
            if not self._is_draining:
                raise
        except BaseException as error:  # noqa: BLE001 - it ends the subscription
            self._failed(error)
        finally:
            self._all.discard(worker)

    async def _step(self, worker: Worker) -> None:
        """Handle the next event, or wait until there is one."""
        found = self._lanes.take()
        if found is None:
            self._rest()
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future
            worker.slice_ends = time.monotonic() + SLICE_S
            return
        worker.since = time.monotonic()
        worker.key, worker.item = found
        self.taken[worker.key] = worker
        await self._handle(worker, worker.key, worker.item)
        if worker.since > worker.slice_ends:
            self._free(worker)
            await asyncio.sleep(0)
            worker.slice_ends = time.monotonic() + SLICE_S

    def _free(self, worker: Worker) -> None:
        if worker.item is None:
            return
        self.taken.pop(worker.key, None)
        worker.item = None
        if self._settling:
            waiting, self._settling = self._settling, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
