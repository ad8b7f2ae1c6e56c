"""The jars of the local Kafka: the lock file, and downloads that are resumed, verified and explained."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from gatelog.core.errors import LocalServiceError
from gatelog.local import jars, lock
from gatelog.local.download import ATTEMPTS_MAX, Download, DownloadError
from gatelog.local.jars import cache_folder, ensure_jars
from gatelog.local.lockfile import Jar, Lock, read_lock
from gatelog.local.model import no_progress

CONTENT = bytes(range(256)) * 1000
JAR = Jar("org.example", "thing", "1.0", sha256(CONTENT).hexdigest(), len(CONTENT))
OTHER_CONTENT = b"other" * 100
OTHER = Jar("org.example.deep", "other", "2", sha256(OTHER_CONTENT).hexdigest(), len(OTHER_CONTENT))
LOCK = Lock((JAR, OTHER), "0123456789abcdef0123", "kafka.lock")


class Repository:
    """A Maven repository on loopback that can be made to misbehave, and remembers what was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files = {f"/{JAR.path}": CONTENT, f"/{OTHER.path}": OTHER_CONTENT}
        self.asked: list[tuple[str, str | None]] = []
        self.failures: list[int] = []  # statuses to answer first
        self.cut_at: int | None = None  # end the next whole answer after so many bytes
        self.honours_range = True

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        content = self.files.get(handler.path)
        if self.failures or content is None:
            handler.send_error(self.failures.pop(0) if self.failures else 404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.honours_range else 0
        if start >= len(content):
            handler.send_error(416)
            return
        self._send(handler, content, start)

    def _send(self, handler: BaseHTTPRequestHandler, content: bytes, start: int) -> None:
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : self.cut_at])
        self.cut_at = None


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Repository(f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("GATELOG_MAVEN_URL", served.url)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def download(repository: Repository, tmp_path: Path) -> Callable[[], None]:
    return lambda: Download(JAR, repository.url, tmp_path, Event(), pause_s=0.001).run()


def part(folder: Path, content: bytes) -> None:
    (folder / f"{JAR.name}.part").write_bytes(content)


def only_jar_left(folder: Path) -> bool:
    return [path.name for path in folder.iterdir()] == [JAR.name] and (folder / JAR.name).read_bytes() == CONTENT


def test_lock_file_lists_kafka_completely() -> None:
    locked = read_lock()
    assert len({jar.path for jar in locked.jars}) == len(locked.jars) == 47
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in locked.jars)
    assert {"kafka_2.13", "kafka-tools", "log4j-slf4j-impl"} <= {jar.artifact for jar in locked.jars}
    assert re.fullmatch(r"\d+\.\d+\.\d+", locked.version)


def test_lock_file_is_written_from_a_folder_in_repository_layout(tmp_path: Path) -> None:
    jar = tmp_path / "jars" / JAR.path
    jar.parent.mkdir(parents=True)
    jar.write_bytes(CONTENT)
    assert lock.write_lock(tmp_path / "jars", tmp_path / "kafka.lock") == 1
    assert read_lock(tmp_path / "kafka.lock").jars == (JAR,)


def test_lock_is_not_written_from_misplaced_jars(tmp_path: Path) -> None:
    (tmp_path / "a/b/1").mkdir(parents=True)
    (tmp_path / "a/b/1/c-1.jar").write_bytes(CONTENT)
    with pytest.raises(SystemExit, match="not where a Maven repository"):
        lock.write_lock(tmp_path, tmp_path / "kafka.lock")


def test_downloads_all_once_and_tells_the_progress(repository: Repository, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    for _ in range(2):
        paths = ensure_jars(LOCK, tmp_path / "cache", lambda *step: told.append(step))
    assert [path.read_bytes() for path in paths] == [CONTENT, OTHER_CONTENT]
    assert sorted(repository.asked) == [(f"/{OTHER.path}", None), (f"/{JAR.path}", None)]
    assert told[-1] == ("download kafka", LOCK.size, LOCK.size)


@pytest.mark.usefixtures("repository")
def test_cached_file_of_the_right_size_is_hashed_once(tmp_path: Path) -> None:
    (tmp_path / JAR.name).write_bytes(b"x" * JAR.size)
    ensure_jars(LOCK, tmp_path, no_progress)
    assert (tmp_path / JAR.name).read_bytes() == CONTENT


def test_verified_file_that_lost_its_size_is_downloaded_again(repository: Repository, tmp_path: Path) -> None:
    ensure_jars(LOCK, tmp_path, no_progress)
    (tmp_path / JAR.name).write_bytes(b"")
    ensure_jars(LOCK, tmp_path, no_progress)
    assert (tmp_path / JAR.name).read_bytes() == CONTENT
    assert len(repository.asked) == 3


def test_resumes_where_it_stopped(repository: Repository, download: Callable[[], None], tmp_path: Path) -> None:
    part(tmp_path, CONTENT[:1000])
    download()
    assert repository.asked == [(f"/{JAR.path}", "bytes=1000-")]
    assert only_jar_left(tmp_path)


def test_resumes_within_a_run_when_the_line_breaks(
    repository: Repository, download: Callable[[], None], tmp_path: Path
) -> None:
    repository.cut_at = 70_000
    download()
    assert [wanted for _, wanted in repository.asked] == [None, "bytes=70000-"]
    assert only_jar_left(tmp_path)


def test_starts_over_when_the_server_ignores_range(
    repository: Repository, download: Callable[[], None], tmp_path: Path
) -> None:
    repository.honours_range = False
    part(tmp_path, CONTENT[:1000])
    download()
    assert only_jar_left(tmp_path)


def test_whole_part_file_needs_no_request(
    repository: Repository, download: Callable[[], None], tmp_path: Path
) -> None:
    part(tmp_path, CONTENT)
    download()
    assert repository.asked == []
    assert only_jar_left(tmp_path)


@pytest.mark.parametrize("left", [b"wrong" * 10, b"x" * JAR.size, b"x" * (JAR.size + 1)])
def test_wrong_part_file_is_replaced(download: Callable[[], None], tmp_path: Path, left: bytes) -> None:
    part(tmp_path, left)
    download()
    assert only_jar_left(tmp_path)


@pytest.mark.parametrize("served", [b"x" * JAR.size, b"x" * (JAR.size + 1)], ids=["other bytes", "too long"])
def test_bad_content_is_tried_once_more_then_deleted_and_reported(
    repository: Repository, download: Callable[[], None], tmp_path: Path, served: bytes
) -> None:
    repository.files[f"/{JAR.path}"] = served
    with pytest.raises(DownloadError, match=r"not what its lock file says"):
        download()
    assert len(repository.asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_too_short_a_file_on_the_server_is_bad_content(
    repository: Repository, download: Callable[[], None], tmp_path: Path
) -> None:
    repository.files[f"/{JAR.path}"] = CONTENT[:-1]
    with pytest.raises(DownloadError, match="shorter"):
        download()
    assert list(tmp_path.iterdir()) == []


def test_transient_failures_are_retried(repository: Repository, download: Callable[[], None], tmp_path: Path) -> None:
    repository.failures = [503, 429]
    download()
    assert only_jar_left(tmp_path)


def test_retries_end(repository: Repository, download: Callable[[], None]) -> None:
    repository.failures = [503] * 100
    with pytest.raises(DownloadError, match="Service Unavailable"):
        download()
    assert len(repository.asked) == ATTEMPTS_MAX


def test_missing_file_is_not_retried(repository: Repository, tmp_path: Path) -> None:
    gone = replace(JAR, version="9")
    with pytest.raises(DownloadError, match="Not Found"):
        Download(gone, repository.url, tmp_path, Event(), pause_s=0.001).run()
    assert len(repository.asked) == 1


def test_cancelled_download_keeps_what_it_has(repository: Repository, tmp_path: Path) -> None:
    cancelled = Event()
    cancelled.set()
    with pytest.raises(DownloadError, match="Cancelled"):
        Download(JAR, repository.url, tmp_path, cancelled).run()
    assert (tmp_path / f"{JAR.name}.part").stat().st_size > 0


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setenv("GATELOG_MAVEN_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(LocalServiceError, match=r"(?s)refused.*GATELOG_MAVEN_URL") as caught:
            ensure_jars(
                Lock((replace(JAR, artifact="kafka-clients"),), "0", "kafka.lock"),
                tmp_path,
                no_progress,
                pause_s=0.001,
            )
    assert str(tmp_path) in str(caught.value)


def test_refuses_other_schemes(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="http or https"):
        Download(JAR, "file:///etc", tmp_path, Event())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GATELOG_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "gatelog" / "jars"
    monkeypatch.setenv("GATELOG_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_maven_central_is_the_default() -> None:
    assert jars.MAVEN_CENTRAL == "https://repo.maven.apache.org/maven2"
