"""The command line in processes of its own, as users and operating systems treat it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gatelog.core.settings import Settings

_COMMAND = (sys.executable, "-m", "gatelog.console")
TIMEOUT_S = 120


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Return an environment in which the command line works on the store of ``settings``, and nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATELOG_")}
    index = {"GATELOG_INDEX_DSNS": " ".join(settings.shard_dsns)} if settings.index_dsns else {}
    kafka = {f"GATELOG_KAFKA_{name.replace('.', '_').upper()}": value for name, value in settings.kafka.items()}
    return {
        **kept,
        **kafka,
        **index,
        "GATELOG_STORE": settings.store,
        "GATELOG_POSTGRES_DSN": settings.dsn,
        "GATELOG_TOPIC_PARTITIONS": str(settings.topic_partitions),
        "NO_COLOR": "1",
        **more,
    }


def gatelog(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``gatelog …`` to its end."""
    return subprocess.run(
        [*_COMMAND, *arguments],
        env=environment,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


class Background:
    """A ``gatelog …`` that goes on until it is told to stop, or killed."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, within: Sequence[str]
    ) -> None:
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*within, *_COMMAND, *arguments], env=environment, cwd=log.parent, stdout=output, stderr=output
            )
        self.log = log

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=TIMEOUT_S)


@contextmanager
def background(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, *, within: Sequence[str] = ()
) -> Iterator[Background]:
    """Yield a background process that does not outlive the test. ``within``: words before its command."""
    running = Background(arguments, environment, log, within)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
