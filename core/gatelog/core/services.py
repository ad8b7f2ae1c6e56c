"""Long-lived things have one shape: ``run()`` is only the loop, and whoever runs several stops them together."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any, Final, Protocol

from gatelog.core import logs
from gatelog.core.telling import told

SHUTDOWN_TIMEOUT_S: Final = 20.0
_log = logs.logger("services")


class Service(Protocol):
    """A loop that runs until ``stop`` is set, then finishes what it has begun and returns."""

    name: str

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set. An error that it cannot recover from is raised, never swallowed."""
        ...


class _AtWork:
    """How many of a program's own functions run: what a stop waits for, and not for what libraries wait for."""

    count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


at_work: Final = _AtWork()  # enter it around a call of a handler, or of a function of a projection


async def run_until_signal(*services: Service, on_signal: Callable[[], None] | None = None) -> None:
    """Run services until SIGTERM or SIGINT, or until one of them fails; then stop all of them.

    The first failure is raised after the others have stopped. One deadline holds for the whole shutdown.
    ``on_signal`` is called at a signal, too.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        if on_signal is not None:
            on_signal()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        await run_all(stop, *services)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def run_all(stop: asyncio.Event, *services: Service) -> None:
    """Run services until ``stop`` is set or one of them ends; a side task that dies stops the rest."""
    tasks = [asyncio.create_task(service.run(stop), name=service.name) for service in services]
    waiter = asyncio.create_task(stop.wait())
    await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await waiter
    _done, late = await asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT_S)
    for task in late:
        _log.error("service.stop_timeout", service=task.get_name(), timeout_s=SHUTDOWN_TIMEOUT_S)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [
        (task.get_name(), result)
        for task, result in zip(tasks, results, strict=True)
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError)
    ]
    for name, failure in failed[1:]:
        _log.error("service.failed", service=name, error=told(failure))
    if failed:
        raise failed[0][1]


async def wait_any(timeout: float, *events: asyncio.Event) -> None:
    """Return when one of the events is set, or after ``timeout`` seconds."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def ended(*tasks: asyncio.Future[Any] | None) -> None:
    """Wait until tasks have ended, and cancel none. What they failed of may stay untold: another failure is told.

    asyncio writes a traceback about what nobody has asked for.
    """
    begun = [task for task in tasks if task is not None]
    if begun:
        await asyncio.wait(begun)
    for task in begun:
        if not task.cancelled():
            task.exception()
