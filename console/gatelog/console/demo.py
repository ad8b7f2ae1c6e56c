"""``gatelog demo``: a git history as events, the whole way, on real services."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from gatelog.console import options, services
from gatelog.console.git.history import Repository
from gatelog.console.git.importer import CATEGORY
from gatelog.console.git.tour import Tour
from gatelog.console.imports import Repo
from gatelog.console.output import print_json
from gatelog.console.store import initialise
from gatelog.core.errors import LocalServiceError
from gatelog.core.settings import Settings

STOP_TIMEOUT_S: Final = 30.0
_LOG_CHARACTERS_SHOWN: Final = 2_000


def demo(
    repo: Repo = Path(),
    store: Annotated[str | None, typer.Option(help="Name of the store.", show_default="one a repository")] = None,
    home: options.Home = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave Postgres and Kafka running, to look around.")] = False,
    json: options.Json = False,
) -> None:
    """Import a git history and show the whole way: gate, outbox, relay, Kafka, index, reads, a consumer group.

    Starts Postgres and Kafka on this machine, unless the settings name servers of your own, and stops them
    at the end. Running it twice imports nothing twice.

      gatelog demo
      gatelog demo --repo ../django --keep
    """
    history = Repository(repo)
    with _servers(services.home_of(home), keep=keep):
        settings = options.settings_of(store or f"demo{history.root[:8]}", home)
        asyncio.run(initialise(settings))
        with _running(settings) as pipeline:
            tour = Tour(settings, history, pipeline.check)
            asyncio.run(tour.run())
    if json:
        print_json({"store": settings.store, "facts": tour.facts, "rates": tour.rates})
        return
    for title, found in (("The same on every run", tour.facts), ("This run", tour.rates)):
        typer.echo(f"\n{title}")
        for name, text in found.items():
            first, *more = text.split("\n")
            typer.echo(f"  {name:<18} {first}")
            for line in more:
                typer.echo(f"  {'':<18} {line}")
    typer.echo(f"\nLook around: gatelog up && gatelog read {CATEGORY}-README.md --store {settings.store}")


@contextmanager
def _servers(home: Path, *, keep: bool) -> Iterator[None]:
    """Start local services unless others are configured; stop what was not running before."""
    elsewhere = Settings.load(home=home / "nowhere")  # without what `gatelog up` left in the folder
    if elsewhere.postgres_dsn is not None and elsewhere.kafka.get("bootstrap.servers"):
        yield
        return
    ran = services.local(home).endpoints() is not None
    services.start(home)
    try:
        yield
    finally:
        if not (ran or keep):
            services.stop(home)


class _Pipeline:
    """``gatelog run`` in a process of its own, as in production."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def check(self) -> None:
        """See that it still runs.

        Raises:
            LocalServiceError: it has ended; the end of its log is in the message.
        """
        if self._process.poll() is not None:
            end = self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS_SHOWN:]
            raise LocalServiceError(f"`gatelog run` ended. Its log {self._log} ends with:\n{end}")


@contextmanager
def _running(settings: Settings) -> Iterator[_Pipeline]:
    properties = {f"GATELOG_KAFKA_{name.replace('.', '_').upper()}": value for name, value in settings.kafka.items()}
    decided = {"GATELOG_STORE": settings.store, "GATELOG_POSTGRES_DSN": settings.dsn, **properties}
    log = settings.home / "demo.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gatelog.console", "run"],
            env={**os.environ, **decided},
            stdout=output,
            stderr=output,
        )
    try:
        yield _Pipeline(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
