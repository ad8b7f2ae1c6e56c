"""Indexers in processes of their own: killed, frozen at the moment before they write, and what they said."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from gatelog.core import logs, services
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.indexer.batches import Batch, Place
from gatelog.indexer.writing import Writer
from support.waiting import until

_forks = get_context("forkserver")
_forks.set_forkserver_preload([__name__])


@contextmanager
def indexer(settings: Settings, log: Path, freeze_at_write: int = 0) -> Iterator[ForkServerProcess]:
    """Run an indexer that does not outlive the block; it stops itself before the nth write, with records in hand."""
    process = _forks.Process(target=_run, args=(settings, log, freeze_at_write), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


async def is_frozen(process: ForkServerProcess) -> None:
    """Wait until it has stopped itself."""

    async def has_stopped() -> bool:
        assert process.pid is not None
        return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED

    await until(has_stopped, "it stops before it writes")


def _run(settings: Settings, log: Path, freeze_at_write: int) -> None:
    sys.stderr = log.open("a", buffering=1, encoding="utf-8")
    logs.configure(json=True)
    if freeze_at_write:
        _freeze(freeze_at_write)
    asyncio.run(services.run_until_signal(Indexer(settings)))


def _freeze(nth: int) -> None:
    write = Writer.write
    left = nth

    async def frozen(self: Writer, batch: Batch, since: Mapping[Place, int]) -> None:
        nonlocal left
        left -= bool(batch.rows)
        if left == 0:
            left = -1
            os.kill(os.getpid(), signal.SIGSTOP)
        await write(self, batch, since)

    Writer.write = frozen  # type: ignore[method-assign] # this is the point
