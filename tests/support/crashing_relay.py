"""A relay in a process of its own that kills or stops itself, by a signal, at a chosen point of a tick."""

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
    settings: Settings, point: str | None, nth: int = 1, number: signal.Signals = signal.SIGKILL
) -> ForkServerProcess:
    """Start a relay that sends itself a signal at the ``nth`` passing of ``point``; with None, never."""
    process = _forks.Process(target=_run, args=(settings, point, nth, number), daemon=True)
    process.start()
    return process


def _run(settings: Settings, point: str | None, nth: int, number: signal.Signals) -> None:
    logs.configure(json=True)
    if point is not None:
        _Fault(point, nth, number).lie_in_wait()
    asyncio.run(services.run_until_signal(Relay(settings)))


class _Fault:
    def __init__(self, point: str, nth: int, number: signal.Signals) -> None:
        self._point = point
        self._left = nth
        self._number = number

    def at(self, point: str, delay_s: float | None = None) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                if delay_s is None:
                    self._strike()
                else:
                    threading.Timer(delay_s, self._strike).start()

    def _strike(self) -> None:
        os.kill(os.getpid(), self._number)

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
