"""A local Kafka that is killed, frozen and started again."""

import asyncio
import os
import signal

import psutil

from gatelog.local import LocalServices, ports
from support.waiting import until


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
