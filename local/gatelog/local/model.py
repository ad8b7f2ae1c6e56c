"""What callers of this package see: endpoints, the state of a service, and how progress is told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

ServiceName = Literal["postgres", "kafka", "registry"]
SERVICE_NAMES: tuple[ServiceName, ...] = ("postgres", "kafka", "registry")


class Progress(Protocol):
    """Told what happens: ``done`` of ``total`` bytes for downloads, 0 of 1 and then 1 of 1 for other stages."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def no_progress(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Endpoints:
    """Where to connect. A service that is not running (``only=…``) has an empty string."""

    postgres_dsn: str
    kafka_bootstrap_servers: str
    registry_url: str = ""


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now. ``pid`` is None when it does not run, ``port`` when it never did."""

    name: ServiceName
    running: bool
    ready: bool
    pid: int | None
    port: int | None
    version: str
    data: Path
    log: Path
