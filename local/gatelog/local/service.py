"""What Postgres and Kafka have in common: found, launched, waited for and stopped in the same way."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import ClassVar

import psutil

from gatelog.core.errors import LocalServiceError
from gatelog.local import ports
from gatelog.local.files import make_folder
from gatelog.local.model import Progress, ServiceName, ServiceStatus
from gatelog.local.process import AS_WE_ARE, RunAs, find, is_alive, spawn, tail
from gatelog.local.state import State, StateFile

READY_TIMEOUT_S = 120.0  # after a crash there may be a gigabyte of log to replay
_READY_POLL_S = 0.05
_LAUNCHES_MAX = 3
_LOG_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True)
class Program:
    """What to start."""

    command: list[str]
    env: dict[str, str]
    run_as: RunAs = field(default=AS_WE_ARE)


class Service(ABC):
    """One of the services of a state folder. Only ``status`` is called without the folder's lock."""

    name: ClassVar[ServiceName]
    port_names: ClassVar[tuple[str, ...]]  # the first is the one that clients use
    stop_signal: ClassVar[Signals]

    def __init__(self, home: Path, states: StateFile) -> None:
        self.folder = home / self.name
        self.data = self.folder / "data"
        self.log = self.folder / f"{self.name}.log"  # what a person reads
        self.output = self.log  # what the process prints
        self._states = states
        self._started_here = False  # by the last launch, or did it run already?
        self._log_sizes: dict[Path, int] = {}  # before the last start: an error shows only what came after

    @property
    def _logs(self) -> tuple[Path, ...]:
        return (self.log,) if self.output == self.log else (self.output, self.log)

    @abstractmethod
    def version(self) -> str:
        """The version that would be, or was, started."""

    @abstractmethod
    def matches(self, state: State, words: list[str]) -> bool:
        """Whether a command line is that of this service of this very folder."""

    @abstractmethod
    def prepare(self, progress: Progress) -> None:
        """Install and initialise what is missing, and clear what a crash left. Nothing runs."""

    @abstractmethod
    def program(self, state: State) -> Program:
        """What to start, with the ports chosen."""

    @abstractmethod
    def is_ready(self, state: State) -> bool:
        """Whether it does its whole work. Asked until it is."""

    def answers(self, state: State) -> bool:
        """A cheaper question, for status: whether it answers now."""
        return self.is_ready(state)

    def process(self, state: State) -> psutil.Process | None:
        """The running process, if there is one."""
        return find(state.pids.get(self.name), lambda words: self.matches(state, words))

    def port(self, state: State) -> int | None:
        return state.ports.get(self.port_names[0])

    def launch(self, progress: Progress) -> None:
        """Start it unless it runs; it may not be ready yet."""
        state = self._states.read_or_new()
        process = self.process(state)
        self._started_here = process is None
        if process is None:
            make_folder(self.folder)
            self.prepare(progress)
            self._start()
        elif state.pids.get(self.name) != process.pid:  # its start was killed before it could remember
            self._states.write(state.with_pid(self.name, process.pid))

    def wait_ready(self, progress: Progress) -> None:
        """Return when it is ready. Started again if it was found dying, or lost a race for its port."""
        progress(f"start {self.name}", 0, 1)
        for launch in range(1, _LAUNCHES_MAX + 1):
            if self._becomes_ready():
                progress(f"start {self.name}", 1, 1)
                return
            if launch == _LAUNCHES_MAX or (self._started_here and self._ports_are_free()):
                break
            self.launch(progress)
        raise self._failure("ended while it started")

    def status(self) -> ServiceStatus:
        state = self._states.read() or State()
        process = self.process(state)
        return ServiceStatus(
            name=self.name,
            running=process is not None,
            ready=process is not None and self.answers(state),
            pid=process.pid if process else None,
            port=self.port(state),
            version=self.version(),
            data=self.data,
            log=self.log,
        )

    def _start(self) -> None:
        state = self._choose_ports(self._states.read_or_new())
        self._states.write(state)
        program = self.program(state)
        _rotate(self.output)
        self._log_sizes = {log: log.stat().st_size for log in self._logs if log.exists()}
        pid = spawn(program.command, self.output, run_as=program.run_as, env=program.env, cwd=self.folder)
        self._states.write(state.with_pid(self.name, pid))

    def _choose_ports(self, state: State) -> State:
        for name in self.port_names:
            others = {port for other, port in state.ports.items() if other != name}
            state = state.with_port(name, ports.choose(state.ports.get(name), others))
        return state

    def _ports_are_free(self) -> bool:
        state = self._states.read_or_new()
        return all(ports.is_free(state.ports[name]) for name in self.port_names)

    def _becomes_ready(self) -> bool:
        """Wait until it is ready (True) or has ended (False)."""
        state = self._states.read_or_new()
        process = _process(state.pids[self.name])
        deadline = time.monotonic() + READY_TIMEOUT_S
        while process is not None and is_alive(process):
            if self.is_ready(state) and is_alive(process):
                return True
            if time.monotonic() > deadline:
                raise self._failure(f"runs, but was not ready after {READY_TIMEOUT_S:g} s")
            time.sleep(_READY_POLL_S)
        return False

    def _failure(self, what: str) -> LocalServiceError:
        said = "\n".join(filter(None, (tail(log, self._log_sizes.get(log, 0)) for log in self._logs))) or "(nothing)"
        return LocalServiceError(f"{self.name.title()} {what}. Its log {self.log} ends with:\n{said}")


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _rotate(log: Path) -> None:
    """Keep one old log, so that a folder that is used for years stays small."""
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))
