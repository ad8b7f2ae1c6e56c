"""The Postgres, the Kafka and, where wanted, the registry of one state folder, started and stopped together."""

import shutil
from pathlib import Path

from gatelog.core.errors import LocalServiceError
from gatelog.local.files import file_lock
from gatelog.local.kafka import Kafka
from gatelog.local.model import SERVICE_NAMES, Endpoints, Progress, ServiceName, ServiceStatus, no_progress
from gatelog.local.postgres import Postgres
from gatelog.local.process import stop
from gatelog.local.registry import Registry
from gatelog.local.service import Service
from gatelog.local.state import State, StateFile

STOP_TIMEOUT_S = 30.0
_LOCK_TIMEOUT_S = 900.0  # the other process may be downloading Kafka over a slow line


class LocalServices:
    """A real Postgres and a real Kafka on this machine, whose whole state is one folder; a registry if wanted.

    They outlive the process that started them. Every method may be called by several processes at once.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.expanduser().resolve()
        self._states = StateFile(self._home / "services.json")
        self._postgres = Postgres(self._home, self._states)
        self._kafka = Kafka(self._home, self._states)
        self._registry = Registry(self._home, self._states)

    @property
    def home(self) -> Path:
        """The state folder."""
        return self._home

    def up(
        self, *, only: ServiceName | None = None, registry: bool = False, progress: Progress | None = None
    ) -> Endpoints:
        """Start what does not run, and return when all of it is ready. What crashed before is recovered.

        The registry is started if it is asked for, or was started in this folder before.
        """
        tell = progress or no_progress
        with file_lock(self._home / "lock", _LOCK_TIMEOUT_S):
            wanted = [
                service
                for service in self._chosen(only)
                if service is not self._registry or only == "registry" or registry or self._registry.was_used()
            ]
            for service in wanted:
                service.launch(tell)
            for service in wanted:
                service.wait_ready(tell)
            return self._endpoints(self._states.read_or_new())

    def down(self, *, only: ServiceName | None = None) -> None:
        """Stop what runs: Postgres fast, Kafka in order; killed only when the deadline has passed."""
        if self._home.exists():
            with file_lock(self._home / "lock", _LOCK_TIMEOUT_S):
                self._stop(self._chosen(only))

    def status(self) -> list[ServiceStatus]:
        """All as they are now; the registry only if it was ever started. Waits for nobody."""
        shown = self._services if self._registry.was_used() else self._services[:2]
        return [service.status() for service in shown]

    def endpoints(self) -> Endpoints | None:
        """Where to connect, None if nothing runs."""
        state = self._states.read()
        if state is None or not any(service.process(state) for service in self._services):
            return None
        return self._endpoints(state)

    def destroy(self) -> None:
        """Stop all and remove what they stored. Only what gatelog made is removed from the folder."""
        if not self._home.exists():
            return
        with file_lock(self._home / "lock", _LOCK_TIMEOUT_S):
            self._stop(self._services)
            for service in self._services:
                _remove(service.folder)
            self._states.path.unlink(missing_ok=True)
            (self._home / "lock").unlink()  # whoever waits for it notices that the file is gone
        _remove_if_empty(self._home)

    @property
    def _services(self) -> tuple[Service, ...]:
        return (self._postgres, self._kafka, self._registry)

    def _chosen(self, only: ServiceName | None) -> tuple[Service, ...]:
        if only not in (None, *SERVICE_NAMES):
            raise LocalServiceError(f"There is no service {only!r}: 'postgres', 'kafka' or 'registry'.")
        return tuple(service for service in self._services if only in (None, service.name))

    def _endpoints(self, state: State) -> Endpoints:
        postgres = self._postgres.dsn(state) if self._postgres.process(state) else ""
        kafka = self._kafka.bootstrap_servers(state) if self._kafka.process(state) else ""
        registry = self._registry.url(state) if self._registry.process(state) else ""
        return Endpoints(postgres, kafka, registry)

    def _stop(self, services: tuple[Service, ...]) -> None:
        state = self._states.read()
        if state is None:
            return
        running = [(process, service.stop_signal) for service in services if (process := service.process(state))]
        stop(running, STOP_TIMEOUT_S)
        for service in services:
            state = state.without_pid(service.name)
        self._states.write(state)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LocalServiceError(f"Cannot remove {folder}: {error.strerror}.") from error


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # other files lie there, or another process has just started anew
