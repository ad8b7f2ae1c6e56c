"""``gatelog consume``: run a program's subscriptions, projections and transforms, in one process or in several."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from gatelog.console import ending, options
from gatelog.console.programs import imported
from gatelog.console.running import JsonLogs, until_signal
from gatelog.core import logs, services
from gatelog.core.errors import InvalidInputError
from gatelog.core.settings import Settings
from gatelog.reader import Projection, Subscription, Transform

RESTART_DELAY_S: Final = 1.0
POLL_S: Final = 0.1
PARENT_CHECK_INTERVAL_S: Final = 1.0
STOP_TIMEOUT_S: Final = 30.0  # of workers; then they are killed, and what was not committed comes again

_PARENT: Final = "GATELOG_CONSUME_PARENT"  # in a worker's environment: the process that started it
Consumer: TypeAlias = Subscription | Projection | Transform
KINDS: Final[tuple[type[Consumer], ...]] = (Subscription, Projection, Transform)

_log = logs.logger("consume")


def consume(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="MODULE:NAME…", help="Subscriptions, Projections, Transforms: billing:app."),
    ],
    concurrency: Annotated[int | None, typer.Option(min=1, help="Handlers at once, in each process.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; they share the partitions.")] = 1,
    store: options.Store = None,
    home: options.Home = None,
    json_logs: JsonLogs = False,
) -> None:
    """Run subscriptions until SIGTERM or Ctrl-C; then finish the handlers that run, commit, and leave the groups.

    Projections (prepared before) and transforms too. Several run side by side; when one ends or fails, all do.

      gatelog consume billing:app
      gatelog consume shop/billing.py:app --concurrency 200 --workers 2
      gatelog consume billing:app totals:totals
    """
    consumers = _consumers(targets, concurrency)
    settings = options.settings_of(store, home)
    if workers == 1:
        running: list[services.Service] = [_Running(each, settings, concurrency) for each in consumers]
        if parent := os.environ.pop(_PARENT, None):  # not for what the program starts
            running.append(_Parent(int(parent)))
        until_signal(json_logs, *running)
        return
    logs.configure(json=json_logs or not sys.stderr.isatty())
    code = _supervise(_command(targets, concurrency, store, home, json_logs), workers)
    if code:
        raise typer.Exit(code)


def _consumers(targets: list[str], concurrency: int | None) -> list[Consumer]:
    """Return what is to run.

    Raises:
        InvalidInputError: it is not there, is none of the three, is named twice, or takes no ``concurrency``.
    """
    found = [imported(target, *KINDS) for target in targets]
    names = [(type(each), each.name) for each in found]
    for each in found:
        if names.count((type(each), each.name)) > 1:
            raise InvalidInputError(f"{type(each).__name__} {each.name!r} is named twice: --workers runs it twice.")
    if concurrency is not None and not any(isinstance(each, Subscription) for each in found):
        raise InvalidInputError("--concurrency is about the handlers of subscriptions, and there is none.")
    return found


class _Running:
    """A consumer as a service."""

    def __init__(self, consumer: Consumer, settings: Settings, concurrency: int | None) -> None:
        self.name = f"{type(consumer).__name__} {consumer.name}"
        self._consumer = consumer
        self._settings = settings
        self._concurrency = concurrency

    async def run(self, stop: asyncio.Event) -> None:
        if isinstance(self._consumer, Subscription):
            await self._consumer.run(stop, self._settings, concurrency=self._concurrency)
        else:
            await self._consumer.run(stop, self._settings)


class _Parent:
    """Ends a worker whose parent was killed: the next one starts workers of its own."""

    name = "parent"

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if os.getppid() != self._pid:
                _log.error("worker.parent_gone", parent=self._pid)
                return
            await services.wait_any(PARENT_CHECK_INTERVAL_S, stop)


def _command(
    targets: list[str], concurrency: int | None, store: str | None, home: Path | None, json_logs: bool
) -> list[str]:
    given = {"--concurrency": concurrency, "--store": store, "--home": home}
    optional = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    program = [sys.executable, "-m", "gatelog.console"]
    return [*program, "consume", *targets, *optional, *(["--json-logs"] if json_logs else [])]


def _supervise(command: list[str], count: int) -> int:
    """Run workers. One that is killed is started again; one that fails ends all, with its exit code."""
    is_stopping = False

    def stop(*_: object) -> None:
        nonlocal is_stopping
        is_stopping = True

    ending.leave_to_services()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    running = [_start(command) for _ in range(count)]
    code = 0
    while not is_stopping:
        time.sleep(POLL_S)
        for place, worker in enumerate(running):
            ended = worker.poll()
            if ended is None:
                continue
            if ended >= 0:
                code, is_stopping = ended, True
            else:
                _log.error("worker.killed", pid=worker.pid, signal=-ended, restart_in_s=RESTART_DELAY_S)
                time.sleep(RESTART_DELAY_S)
                running[place] = _start(command)
    _stop(running)
    return code


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start a worker in a process group of its own, so that Ctrl-C reaches it once, from us."""
    environment = {**os.environ, _PARENT: str(os.getpid())}
    worker = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - ourselves
    _log.info("worker.started", pid=worker.pid)
    return worker


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.error("worker.stop_timeout", pid=worker.pid, timeout_s=STOP_TIMEOUT_S)
            worker.kill()
            worker.wait()
