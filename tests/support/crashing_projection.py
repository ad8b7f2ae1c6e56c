"""A member of a projection in a process of its own, which signals itself at a chosen point of a batch."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any, Final, Literal

import psutil

from gatelog.core import logs, services
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions import applying, sessions
from gatelog.reader.subscriptions.applying import Applier
from gatelog.reader.subscriptions.checkpoints import Checkpoints
from support.projections import keeping
from support.waiting import until

# Before the batch's transaction; in it, before and after the function has written; after it.
POINTS: Final = ("batch", "advanced", "written", "committed")

_forks = get_context("forkserver")
_forks.set_forkserver_preload([__name__])


@contextmanager
def member(
    settings: Settings,
    order: Literal["partition", "total"],
    by: str,
    point: str | None = None,
    nth: int = 1,
    number: signal.Signals = signal.SIGKILL,
) -> Iterator[ForkServerProcess]:
    """Run a member that gets a signal at the ``nth`` passing of ``point``, and does not outlive the block."""
    arguments = (settings, order, by, point, nth, number)
    process = _forks.Process(target=_run, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _run(
    settings: Settings,
    order: Literal["partition", "total"],
    by: str,
    point: str | None,
    nth: int,
    number: signal.Signals,
) -> None:
    logs.configure(json=True)
    sessions.LEASE_S = 1.0  # type: ignore[misc] # what is tried is the take-over, not the patience
    sessions.BEAT_INTERVAL_S = 0.2  # type: ignore[misc] # see above
    sessions.BATCH_EVENTS_MAX = 20  # type: ignore[misc] # more batches, more moments
    if point is not None:
        _lie_in_wait(point, nth, number)
    asyncio.run(services.run_until_signal(_Member(settings, order, by)))


class _Member:
    name = "projection"

    def __init__(self, settings: Settings, order: Literal["partition", "total"], by: str) -> None:
        self._settings = settings
        self._projection = keeping("crashing", settings, by, order=order)

    async def run(self, stop: asyncio.Event) -> None:
        await self._projection.run(stop, self._settings)


def _lie_in_wait(point: str, nth: int, number: signal.Signals) -> None:
    left = nth

    def at(here: str) -> None:
        nonlocal left
        if here == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    def wrap(owner: type, name: str, before: str | None, after: str | None) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        async def wrapped(*arguments: object) -> object:
            if before is not None:
                at(before)
            result = await original(*arguments)
            if after is not None:
                at(after)
            return result

        setattr(owner, name, wrapped)

    wrap(Applier, "_once", "batch", "committed")
    wrap(Checkpoints, "advance", None, "advanced")
    wrap(applying.Applier, "_call", None, "written")


async def dead(process: ForkServerProcess) -> None:
    """Wait until a member has killed itself."""
    await asyncio.to_thread(process.join, 60)
    assert process.exitcode == -signal.SIGKILL, "it was to die at its point"


async def frozen(process: ForkServerProcess) -> None:
    """Wait until a member has stopped itself."""

    async def is_stopped() -> bool:
        assert process.pid is not None
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

    await until(is_stopped, "it was to stop at its point")
