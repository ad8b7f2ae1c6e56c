"""A local Kafka that is killed, frozen and started again."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess

import psutil

from gatelog.core.errors import KafkaUnavailableError
from gatelog.local import LocalServices, ports
from gatelog.reader.subscriptions.probing import committed
from support.waiting import until

_forks = get_context("forkserver")
_forks.set_forkserver_preload([__name__])


class Broker:
    """The broker as it runs now."""

    def __init__(self, services: LocalServices) -> None:
        (status,) = (status for status in services.status() if status.name == "kafka")
        assert status.pid is not None
        assert status.port is not None
        self.pid, self._port = status.pid, status.port

    async def killed(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        await self.gone()

    async def gone(self) -> None:
        """Wait until its port is free: a process that dies lets go of it last, and the next start is to find it."""

        async def is_gone() -> bool:
            return not psutil.pid_exists(self.pid) or self._is_zombie()

        async def is_free() -> bool:
            return ports.is_free(self._port)

        await until(is_gone, "Kafka is dead")
        await until(is_free, "Kafka's port is free")

    async def stopped(self) -> None:
        async def is_stopped() -> bool:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

        await until(is_stopped, "Kafka is frozen")

    def _is_zombie(self) -> bool:
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


async def up(services: LocalServices) -> None:
    await asyncio.to_thread(services.up, only="kafka")


@contextmanager
def asking(properties: dict[str, str], count: int) -> Iterator[list[ForkServerProcess]]:
    """Run processes that ask for committed offsets without a break, and do not outlive the block."""
    processes = [_forks.Process(target=_ask, args=(properties,), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _ask(properties: dict[str, str]) -> None:
    while True:
        with suppress(KafkaUnavailableError):
            committed(properties, "group", [("topic", 0)])
