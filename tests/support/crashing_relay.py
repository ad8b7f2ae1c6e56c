"""A relay in a process of its own that signals itself, or a server that it talks to, at a chosen point of a tick."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

from confluent_kafka import Producer

from gatelog.core import logs, services
from gatelog.core.settings import Settings
from gatelog.producer.relay import Relay, publisher
from gatelog.producer.relay.ticks import Ticks

# Where a relay talks to Postgres and to Kafka. "…ing": while the other side may be at it.
POINTS: Final = (
    "fix", "fixing", "fixed", "begin", "produce", "commit", "committing", "committed", "check", "checking",
)  # fmt: skip

_forks = get_context("forkserver")
_forks.set_forkserver_preload([__name__])  # imports cost more than a relay's whole life here


def start(
    settings: Settings,
    point: str | None,
    nth: int = 1,
    number: signal.Signals = signal.SIGKILL,
    victim: int | None = None,
) -> ForkServerProcess:
    """Start a relay that sends a signal at the ``nth`` passing of ``point``; with None, never.

    ``victim`` is the process that gets it, by default the relay. A relay that has another victim gives a commit up
    after seconds instead of a minute: what follows is what is tried, not the patience.
    """
    process = _forks.Process(target=_run, args=(settings, point, nth, number, victim), daemon=True)
    process.start()
    return process


def _run(settings: Settings, point: str | None, nth: int, number: signal.Signals, victim: int | None) -> None:
    logs.configure(json=True)
    if victim is not None:
        publisher.COMMIT_TIMEOUT_S, publisher._CALL_TIMEOUT_S = 2.0, 1.0  # type: ignore[misc] # see start
    if point is not None:
        _Fault(point, nth, number, victim or os.getpid()).lie_in_wait()
    asyncio.run(services.run_until_signal(Relay(settings)))


class _Fault:
    def __init__(self, point: str, nth: int, number: signal.Signals, victim: int) -> None:
        self._point = point
        self._left = nth
        self._number = number
        self._victim = victim

    def at(self, point: str, delay_s: float | None = None) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                if delay_s is None:
                    self._strike()
                else:
                    threading.Timer(delay_s, self._strike).start()

    def _strike(self) -> None:
        os.kill(self._victim, self._number)

    def lie_in_wait(self) -> None:
        """Wrap the calls that a relay makes of the Kafka client, and its writes to Postgres."""
        at = self.at

        class Faulty(Producer):
            def begin_transaction(self) -> None:
                at("begin")
                super().begin_transaction()

            def produce(self, *arguments: object) -> None:
                at("produce")
                super().produce(*arguments)  # type: ignore[arg-type] # as they came

            def commit_transaction(self, *arguments: object) -> None:
                at("commit")
                at("committing", 0.004)
                super().commit_transaction(*arguments)  # type: ignore[arg-type] # as they came
                at("committed")

        publisher.Producer = Faulty  # type: ignore[attr-defined] # this is the point
        self._wrap(Ticks, "_store", "fix", "fixing", "fixed")
        self._wrap(Ticks, "checked", "check", "checking", None)

    def _wrap(self, owner: type, name: str, before: str, during: str, after: str | None) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        async def wrapped(*arguments: object) -> None:
            self.at(before)
            self.at(during, 0.0005)
            await original(*arguments)
            if after is not None:
                self.at(after)

        setattr(owner, name, wrapped)
