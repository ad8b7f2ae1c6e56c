"""The real Postgres and the real Kafka of this machine: started, killed, recovered, kept apart, stopped.

The tests of the first part share one state folder and put it back into running order; each starts what it needs.
"""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from gatelog.core.errors import LocalServiceError
from gatelog.local import Endpoints, LocalServices, ServiceName, ServiceStatus
from gatelog.local.postgres import Postgres
from gatelog.local.process import command_line, is_alive, wait_gone
from gatelog.local.service import Service
from gatelog.local.state import StateFile


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    services = LocalServices(tmp_path_factory.mktemp("local") / "first home")
    yield services
    services.destroy()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalServices]:
    """A state folder for one test."""
    services = LocalServices(tmp_path / "own")
    yield services
    services.destroy()


@pytest.fixture
def stranger() -> Iterator[psutil.Process]:
    """A process of somebody else's, as it may get the id of a killed service."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"]) as child:
        yield psutil.Process(child.pid)
        child.kill()


def _places(endpoints: Endpoints) -> set[str]:
    """Return where the services listen; one that does not run is nowhere."""
    return set(vars(endpoints).values()) - {""}


def status(services: LocalServices, name: ServiceName) -> ServiceStatus:
    return next(one for one in services.status() if one.name == name)


def pids(services: LocalServices) -> list[int | None]:
    return [one.pid for one in services.status()]


def kill(services: LocalServices, name: ServiceName) -> None:
    process = psutil.Process(status(services, name).pid)
    process.kill()
    assert wait_gone(process, 10.0)


def remember_pid(services: LocalServices, name: ServiceName, pid: int | None) -> None:
    """Change services.json as a crash, or a reused process id, would leave it."""
    path = services.home / "services.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    state["pids"] = {name: pid} if pid else {}
    path.write_text(json.dumps(state), encoding="utf-8")


async def count(endpoints: Endpoints) -> int:
    """Insert a row and count all."""
    connection = await asyncpg.connect(endpoints.postgres_dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (at timestamptz DEFAULT now())")
        await connection.execute("INSERT INTO kept DEFAULT VALUES")
        return int(await connection.fetchval("SELECT count(*) FROM kept"))
    finally:
        await connection.close()


def publish(endpoints: Endpoints, value: bytes) -> None:
    """Publish in a transaction."""
    servers = endpoints.kafka_bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers})  # named: one that is collected cancels what it was asked
    admin.create_topics([NewTopic("kept", 1)])["kept"].exception(timeout=10)  # exists the second time
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "test"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce("kept", value)
    producer.commit_transaction(10)


def consume(endpoints: Endpoints, messages: int) -> list[bytes | None]:
    """Read committed messages as a group."""
    servers = {"bootstrap.servers": endpoints.kafka_bootstrap_servers}
    consumer = Consumer({**servers, "group.id": str(uuid4()), "auto.offset.reset": "earliest"})
    consumer.subscribe(["kept"])
    try:
        return [message.value() for message in consumer.consume(messages, timeout=20)]
    finally:
        consumer.close()


async def test_up_starts_both_and_they_work(services: LocalServices) -> None:
    stages: set[str] = set()
    endpoints = services.up(progress=lambda stage, _done, _total: stages.add(stage))
    assert services.endpoints() == endpoints
    assert await count(endpoints) == 1
    publish(endpoints, b"one")
    assert consume(endpoints, 1) == [b"one"]
    assert {"initialise postgres", "start postgres", "format kafka", "start kafka"} <= stages


async def test_postgres_is_durable_and_asks_for_the_password(services: LocalServices) -> None:
    dsn = services.up(only="postgres").postgres_dsn
    connection = await asyncpg.connect(dsn)
    settings = "fsync", "synchronous_commit", "full_page_writes", "server_encoding", "TimeZone"
    shown = [await connection.fetchval(f"SHOW {name}") for name in settings]
    await connection.close()
    assert shown == ["on", "on", "on", "UTF8", "UTC"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(dsn.replace("gatelog:", "gatelog:wrong"))
    assert (services.home / "postgres" / "password").stat().st_mode & 0o077 == 0


def test_status_tells_all(services: LocalServices) -> None:
    services.up()
    for one, version in zip(services.status(), ("18.", "4."), strict=True):
        assert one.running
        assert one.ready
        assert one.version.startswith(version)
        assert psutil.pid_exists(one.pid or 0)
        assert one.data.is_dir()
        assert one.log.is_file()
        with socket.create_connection(("127.0.0.1", one.port or 0), timeout=5):
            pass


def test_up_again_changes_nothing(services: LocalServices) -> None:
    first, running = services.up(), pids(services)
    assert services.up() == first
    assert pids(services) == running


def test_start_that_was_killed_before_it_could_remember_is_found(services: LocalServices) -> None:
    first, running = services.up(), pids(services)
    remember_pid(services, "postgres", None)
    assert pids(services) == running
    assert services.up() == first
    assert json.loads((services.home / "services.json").read_text(encoding="utf-8"))["pids"] == dict(
        zip(("postgres", "kafka"), running, strict=True)
    )


async def test_both_killed_and_their_process_ids_reused(services: LocalServices, stranger: psutil.Process) -> None:
    before = services.up()
    kept = await count(before)
    kill(services, "postgres")
    kill(services, "kafka")
    assert services.endpoints() is None
    pid_file = services.home / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text(
        str(stranger.pid) + pid_file.read_text(encoding="utf-8").lstrip("0123456789"), encoding="utf-8"
    )
    remember_pid(services, "kafka", stranger.pid)
    assert not any(one.running for one in services.status())

    after = services.up()
    assert after == before  # the ports are remembered too
    assert await count(after) == kept + 1
    publish(after, b"two")
    assert consume(after, 2) == [b"one", b"two"]
    assert stranger.is_running()


def test_down_of_one_leaves_the_other(services: LocalServices) -> None:
    both = services.up()
    services.down(only="postgres")
    assert services.endpoints() == Endpoints("", both.kafka_bootstrap_servers)
    assert services.up(only="postgres") == both


async def test_second_home_lives_beside_the_first_and_recovers_a_half_written_folder(
    services: LocalServices, own: LocalServices
) -> None:
    first = services.up()
    for name in ("postgres", "kafka"):
        half = own.home / name / "data.new-0"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("half", encoding="utf-8")
    second = own.up()
    assert not _places(first) & _places(second)
    assert await count(second) == 1
    publish(second, b"second")
    assert consume(second, 1) == [b"second"]
    assert not list(own.home.glob("*/data.new*"))
    own.destroy()
    assert not own.home.exists()
    assert services.endpoints() == first


async def test_down_leaves_no_process_and_a_taken_port_is_replaced(services: LocalServices) -> None:
    before = services.up()
    kept = await count(before)
    running = [process for pid in pids(services) for process in tree(psutil.Process(pid))]
    services.down()
    assert not any(map(is_alive, running))
    assert services.endpoints() is None
    services.down()

    with listening(one.port for one in services.status()):
        after = services.up()
    assert not _places(before) & _places(after)
    assert await count(after) == kept + 1
    assert consume(after, 2) == [b"one", b"two"]


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


class listening:  # noqa: N801 (reads as a context manager)
    """Somebody else's servers on these ports."""

    def __init__(self, ports: Iterator[int | None]) -> None:
        self._servers = [socket.create_server(("127.0.0.1", port or 0)) for port in ports]

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()


# --- one state folder each, mostly Postgres alone: it starts in half a second ------------------------------------


def start_in_another_process(home: Path) -> subprocess.Popen[str]:
    program = (
        "import sys, pathlib, gatelog.local as g; g.LocalServices(pathlib.Path(sys.argv[1])).up(only='postgres')"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(home)], stderr=subprocess.PIPE, text=True)


def test_two_processes_start_one_postgres_that_outlives_them(own: LocalServices) -> None:
    callers = [start_in_another_process(own.home) for _ in range(2)]
    assert [(caller.communicate(timeout=60)[1], caller.returncode) for caller in callers] == [("", 0), ("", 0)]
    postmasters = [one for one in psutil.process_iter() if own.home / "postgres/data" in map(Path, command_line(one))]
    assert [one.pid for one in postmasters] == [status(own, "postgres").pid]
    assert status(own, "postgres").ready
    assert not status(own, "kafka").running


def test_stop_spares_a_stranger_with_the_remembered_process_id(own: LocalServices, stranger: psutil.Process) -> None:
    own.up(only="postgres")
    process = psutil.Process(status(own, "postgres").pid)
    remember_pid(own, "postgres", stranger.pid)
    own.down()
    assert not is_alive(process)
    assert stranger.is_running()


def test_frozen_postgres_is_killed_after_the_deadline(own: LocalServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatelog.local.services.STOP_TIMEOUT_S", 0.3)
    own.up(only="postgres")
    process = psutil.Process(status(own, "postgres").pid)
    process.send_signal(signal.SIGSTOP)
    own.down()
    assert not is_alive(process)
    own.up(only="postgres")


async def test_busy_backend_of_a_killed_postgres_is_ended(
    own: LocalServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatelog.local.postgres._ORPHANS_TIMEOUT_S", 0.3)
    connection = await asyncpg.connect(own.up(only="postgres").postgres_dsn)
    backend = psutil.Process(connection.get_server_pid())
    backend.send_signal(signal.SIGSTOP)  # so busy that it does not notice
    kill(own, "postgres")
    own.up(only="postgres")
    assert not is_alive(backend)
    connection.terminate()


def test_up_right_after_a_kill_starts_it_again(own: LocalServices) -> None:
    for _ in range(3):
        own.up(only="postgres")
        psutil.Process(status(own, "postgres").pid).kill()  # may still be dying when it is looked for
    own.up(only="postgres")
    assert status(own, "postgres").ready


def test_failed_start_shows_the_log(own: LocalServices) -> None:
    own.up(only="postgres")
    own.down()
    settings = own.home / "postgres" / "data" / "postgresql.conf"
    settings.write_text("no_such_setting = 1\n", encoding="utf-8")
    with pytest.raises(LocalServiceError, match=r"(?s)postgres\.log.*no_such_setting"):
        own.up(only="postgres")
    assert not status(own, "postgres").running


def test_failed_start_of_kafka_shows_the_log(own: LocalServices) -> None:
    (own.home / "kafka" / "data").mkdir(parents=True)
    (own.home / "kafka" / "data" / "mine").write_text("kept", encoding="utf-8")
    with pytest.raises(LocalServiceError, match=r"(?s)kafka\.log.*meta\.properties"):
        own.up(only="kafka")
    assert (own.home / "kafka" / "data" / "mine").exists()


def test_data_of_another_major_version_is_left_alone(own: LocalServices) -> None:
    data = own.home / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n", encoding="ascii")
    with pytest.raises(LocalServiceError, match="made by Postgres 9"):
        own.up(only="postgres")
    assert (data / "PG_VERSION").exists()


def test_destroy_removes_only_what_is_its_own(own: LocalServices) -> None:
    own.home.mkdir()
    (own.home / "mine").write_text("kept", encoding="utf-8")
    own.up(only="postgres")
    own.destroy()
    assert [path.name for path in own.home.iterdir()] == ["mine"]


def test_lost_race_for_the_port_is_repeated_with_another(own: LocalServices, monkeypatch: pytest.MonkeyPatch) -> None:
    own.up(only="postgres")
    own.down()
    port = status(own, "postgres").port
    with socket.create_server(("127.0.0.1", port or 0)), monkeypatch.context() as patch:
        answers = iter([port])
        choose = Service._choose_ports
        patch.setattr(
            Service, "_choose_ports", lambda self, state: state if next(answers, None) else choose(self, state)
        )
        own.up(only="postgres")
    assert status(own, "postgres").port != port


def test_running_postgres_of_somebody_else_is_not_disturbed(own: LocalServices) -> None:
    own.up(only="postgres")
    process = psutil.Process(status(own, "postgres").pid)
    state_file = own.home / "services.json"
    state = state_file.read_text(encoding="utf-8")
    state_file.unlink()  # now nothing says that it is ours
    with pytest.raises(LocalServiceError, match=f"process {process.pid}"):
        own.up(only="postgres")
    assert process.is_running()
    state_file.write_text(state, encoding="utf-8")


def test_unknown_service_is_refused(own: LocalServices) -> None:
    with pytest.raises(LocalServiceError, match="no service"):
        own.up(only="mysql")  # type: ignore[arg-type]  # what an untyped caller may pass


def test_lost_password_is_explained(own: LocalServices) -> None:
    postgres = Postgres(own.home, StateFile(own.home / "services.json"))
    own.up(only="postgres")
    (own.home / "postgres" / "password").unlink()
    with pytest.raises(LocalServiceError, match="password"):
        postgres.dsn(StateFile(own.home / "services.json").read_or_new())
