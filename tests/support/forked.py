"""``gatelog …`` in processes that begin at once, with everything imported already: a sweep starts hundreds."""

import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from signal import Signals
from typing import Final

from gatelog.console.app import main
from support.waiting import until

TIMEOUT_S: Final = 120.0
_forks = get_context("forkserver")
_forks.set_forkserver_preload([__name__])


class Forked:
    """One of them; what it writes is appended to ``log``."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        log.touch()
        self._process = _forks.Process(target=_run, args=(list(arguments), dict(environment), str(log)), daemon=True)
        self._process.start()

    @property
    def code(self) -> int | None:
        """The exit code; the negative number of a signal; None while it runs."""
        return self._process.exitcode

    def signal(self, number: Signals) -> None:
        """Send a signal, if it runs still."""
        if self.code is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, number)

    async def ended(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait until it has ended; return its exit code."""

        async def has_ended() -> bool:
            return self.code is not None

        await until(has_ended, f"{self.log.name} ends", timeout_s)
        assert self.code is not None
        return self.code


def _run(arguments: list[str], environment: dict[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(log).parent)
    sys.argv = ["gatelog", *arguments]
    main()
