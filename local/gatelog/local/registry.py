"""A schema registry as a local service: Apicurio, which speaks Confluent's API."""

import http.client
import os
import shutil
import tarfile
from http import HTTPStatus
from pathlib import Path
from signal import SIGTERM

from gatelog.local import jars, ports
from gatelog.local.files import file_lock, make_folder, unfinished
from gatelog.local.java import find_java
from gatelog.local.lockfile import REGISTRY_LOCK_PATH, Lock, read_lock
from gatelog.local.model import Progress
from gatelog.local.service import Program, Service
from gatelog.local.state import State, StateFile

API = "/apis/ccompat/v7"
_JAVA_VERSION_MIN = 21
# It starts in 5 s and answers a few requests: compiling it well would not pay.
_FLAGS = ("-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Djava.awt.headless=true")
_PROPERTIES = {
    "quarkus.http.host": ports.HOST,
    "quarkus.http.access-log.enabled": "false",
    "quarkus.management.host": ports.HOST,  # cannot be switched off; on all interfaces by default
    "quarkus.management.port": "0",
    "apicurio.datasource.url": "jdbc:h2:file:./data/registry",  # in memory by default
}
_ANSWER_TIMEOUT_S = 5.0
_UNPACK_TIMEOUT_S = 600.0


class Registry(Service):
    """The schema registry of one state folder."""

    name = "registry"
    port_names = ("registry",)
    stop_signal = SIGTERM

    def __init__(self, home: Path, states: StateFile) -> None:
        super().__init__(home, states)
        self._lock: Lock = read_lock(REGISTRY_LOCK_PATH)

    def version(self) -> str:
        return self._lock.version

    def url(self, state: State) -> str:
        return f"http://{ports.HOST}:{self.port(state)}{API}"

    def was_used(self) -> bool:
        """Whether it was started in this folder before: what it stores is wanted again."""
        return self.data.exists()

    def matches(self, state: State, words: list[str]) -> bool:
        return set(self._marks(state)) <= set(words)

    def prepare(self, progress: Progress) -> None:
        _unpacked(self._lock, progress)
        make_folder(self.data)

    def program(self, state: State) -> Program:
        properties = {**_PROPERTIES, "quarkus.http.port": str(self.port(state))}
        given = [f"-D{name}={value}" for name, value in properties.items()]
        java = find_java("The registry", _JAVA_VERSION_MIN)
        jar = str(_folder(self._lock) / "quarkus-run.jar")
        return Program([java, *_FLAGS, *given, *self._marks(state), "-jar", jar], {**os.environ, "LC_ALL": "C.UTF-8"})

    def is_ready(self, state: State) -> bool:
        connection = http.client.HTTPConnection(ports.HOST, self.port(state), timeout=_ANSWER_TIMEOUT_S)
        try:
            connection.request("GET", f"{API}/subjects")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _marks(self, state: State) -> tuple[str, str]:
        """What stands on the command line for us to recognise; the program reads neither."""
        return (f"-Dgatelog.token={state.token}", f"-Dgatelog.folder={self.folder}")


def _folder(lock: Lock) -> Path:
    return jars.cache_folder() / f"registry-{lock.version}"


def _unpacked(lock: Lock, progress: Progress) -> None:
    """Download and unpack it once, for all state folders; the archive is not kept."""
    folder = _folder(lock)
    with file_lock(make_folder(folder.parent) / "registry.lock", _UNPACK_TIMEOUT_S):
        if folder.exists():
            return
        (archive,) = jars.ensure_jars(lock, folder.parent, progress)
        progress("unpack registry", 0, 1)
        new = unfinished(folder)
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(new, filter="data")
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        archive.unlink()
        progress("unpack registry", 1, 1)
