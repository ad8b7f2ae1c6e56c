"""State files, locks, ports, processes and Java: what the local services stand on."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import gatelog.local
from gatelog.core.errors import LocalServiceError
from gatelog.local import LocalServices, java, ports, process, runas
from gatelog.local.files import file_lock, write_atomic
from gatelog.local.kafka import cluster_id
from gatelog.local.process import RunAs
from gatelog.local.state import State, StateFile


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    """A process that has nothing to do with gatelog."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "marker"]) as child:
        yield psutil.Process(child.pid)
        child.kill()


def test_exports() -> None:
    assert all(hasattr(gatelog.local, name) for name in gatelog.local.__all__)


def test_write_atomic_replaces_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    (tmp_path / "secret.new").write_text("left by a crash", encoding="utf-8")
    write_atomic(path, "one", mode=0o600)
    write_atomic(path, "two", mode=0o600)
    assert path.read_text(encoding="utf-8") == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["secret"]


def test_lock_excludes_and_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with file_lock(path, 1.0), pytest.raises(LocalServiceError, match="holds"), file_lock(path, 0.0):
        pass
    with file_lock(path, 0.0):
        pass


def test_lock_on_a_removed_file_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path, 1.0):
        path.unlink()
        with file_lock(path, 0.0):  # a new file: whoever removed the old one was done
            assert path.exists()


def test_state_survives_the_round_trip(tmp_path: Path) -> None:
    states = StateFile(tmp_path / "services.json")
    state = State().with_port("kafka", 1).with_pid("kafka", 2).with_pid("postgres", 3).without_pid("postgres")
    states.write(state)
    assert states.read() == states.read_or_new() == state
    assert state.pids == {"kafka": 2}


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"token": "x"}', '{"token": "x", "ports": 1, "pids": {}}'])
def test_damaged_state_counts_as_none(tmp_path: Path, text: str) -> None:
    states = StateFile(tmp_path / "services.json")
    states.path.write_text(text, encoding="utf-8")
    assert states.read() is None
    assert states.read_or_new() == states.read()


def test_remembered_port_is_kept_while_free() -> None:
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        port = taken.getsockname()[1]
        taken.listen()
        assert not ports.is_free(port)
        assert ports.is_open(port)
        assert ports.choose(port) != port
    assert ports.choose(port) == port
    assert not ports.is_open(port)


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _port: False)
    with pytest.raises(LocalServiceError, match="No free TCP port"):
        ports.choose(None)


def test_find_believes_the_command_line_not_the_process_id(sleeper: psutil.Process) -> None:
    assert process.find(sleeper.pid, lambda words: "other" in words) is None
    found = process.find(os.getpid(), lambda words: words[-1:] == ["marker"] and words[0] == sys.executable)
    assert found == sleeper


def wait_for_line(log: Path, line: str) -> None:
    deadline = time.monotonic() + 10
    while line not in process.tail(log).splitlines():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stop_kills_only_after_the_deadline(tmp_path: Path) -> None:
    script = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
    stubborn = process.spawn(["/bin/sh", "-c", script], tmp_path / "l", cwd=tmp_path)
    wait_for_line(tmp_path / "l", "deaf")
    gentle = process.spawn(["sleep", "60"], tmp_path / "l", cwd=tmp_path)
    running = [psutil.Process(stubborn), psutil.Process(gentle)]
    process.stop([(one, signal.SIGTERM) for one in running], timeout_s=0.3)
    assert not any(process.is_alive(one) for one in running)
    process.stop([(running[0], signal.SIGTERM)], timeout_s=0.3)  # gone already: nothing to do


def test_spawned_process_is_in_its_own_session_and_logs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = process.spawn(["/bin/sh", "-c", "echo out; echo err >&2; exec sleep 60"], log, cwd=tmp_path)
    spawned = psutil.Process(pid)
    try:
        wait_for_line(log, "err")
        assert process.tail(log) == "out\nerr"
        assert os.getsid(pid) != os.getsid(0)
        assert spawned.ppid() != os.getpid()
    finally:
        process.stop([(spawned, signal.SIGTERM)], timeout_s=1.0)


def test_a_program_that_cannot_start_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(LocalServiceError, match="Cannot run"):
        process.run([str(tmp_path / "missing")])
    with pytest.raises(LocalServiceError, match=r"(?s)Trying failed with exit code 3.*why"):
        process.run_checked(["/bin/sh", "-c", "echo why; exit 3"], "Trying")
    with pytest.raises(LocalServiceError, match="Cannot start"):
        process.spawn(["true"], tmp_path / "no" / "log", cwd=tmp_path)


def test_tail_of_nothing() -> None:
    assert process.tail(Path("/no/such/log")) == ""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "25.0.2" 2026-01-20 LTS', 25),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "17-ea"', 17),
        ("what?", 0),
    ],
)
def test_java_version(text: str, version: int) -> None:
    assert java.java_version(text) == version


def fake_java(home: Path, version: str) -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def test_java_home_is_used_or_refused_never_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = fake_java(tmp_path / "new", "21.0.1"), fake_java(tmp_path / "old", "1.8.0_1")
    monkeypatch.setenv("JAVA_HOME", str(new.parent.parent))
    assert java.find_java() == str(new)
    monkeypatch.setenv("JAVA_HOME", str(old.parent.parent))
    with pytest.raises(LocalServiceError, match="Java 8; Kafka needs 17"):
        java.find_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(LocalServiceError, match="no bin/java"):
        java.find_java()


def test_java_comes_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert Path(java.find_java()).is_file()


def test_cluster_id_is_no_option() -> None:
    ids = {cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(len(text) == 22 and not text.startswith("-") for text in ids)


def test_ordinary_user_runs_postgres_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert runas.postgres_identity(tmp_path, "postgres") == RunAs()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as somebody else")
def test_root_without_user_namespaces_needs_folders_that_all_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _program: None)
    closed = tmp_path / "closed"
    (closed / "postgres").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(LocalServiceError, match="GATELOG_HOME"):
        runas.postgres_identity(closed / "postgres", "/bin/true")


def test_nothing_is_there_before_the_first_start(tmp_path: Path) -> None:
    services = LocalServices(tmp_path / "home")
    assert services.endpoints() is None
    assert [(one.name, one.running, one.ready, one.pid, one.port) for one in services.status()] == [
        ("postgres", False, False, None, None),
        ("kafka", False, False, None, None),
    ]
    services.down()
    services.destroy()
    assert not (tmp_path / "home").exists()
