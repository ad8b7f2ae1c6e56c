"""Files of Maven Central in the cache folder: those that are missing are downloaded, all are verified once."""

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from gatelog.core.errors import LocalServiceError
from gatelog.local.download import Download, DownloadError
from gatelog.local.files import file_lock, make_folder, write_atomic
from gatelog.local.lockfile import Jar, Lock, file_sha256
from gatelog.local.model import Progress

MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"
_THREADS = 8
_PROGRESS_INTERVAL_S = 0.1
_LOCK_TIMEOUT_S = 1800.0


def cache_folder() -> Path:
    """GATELOG_CACHE, else gatelog/jars in the user's cache folder."""
    if chosen := os.environ.get("GATELOG_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gatelog" / "jars"


def ensure_jars(lock: Lock, folder: Path, progress: Progress, *, pause_s: float = 0.5) -> list[Path]:
    """All jars of the lock file as local files, in its order: the class path."""
    if not _is_verified(lock, folder):
        # Two state folders may start at once, and both use this folder.
        with file_lock(make_folder(folder) / "lock", _LOCK_TIMEOUT_S):
            if missing := [jar for jar in lock.jars if not _is_good(folder / jar.name, jar)]:
                _download(lock, missing, folder, progress, pause_s)
            write_atomic(_stamp(lock, folder), "")
    return [folder / jar.name for jar in lock.jars]


def _stamp(lock: Lock, folder: Path) -> Path:
    """The file that says: every hash of this very lock file was verified in this folder."""
    return folder / f"verified-{lock.digest[:16]}"


def _is_verified(lock: Lock, folder: Path) -> bool:
    return _stamp(lock, folder).exists() and all(_has_size(folder / jar.name, jar) for jar in lock.jars)


def _is_good(path: Path, jar: Jar) -> bool:
    if not _has_size(path, jar):
        return False
    if file_sha256(path) == jar.sha256:
        return True
    path.unlink()
    return False


def _has_size(path: Path, jar: Jar) -> bool:
    try:
        return path.stat().st_size == jar.size
    except FileNotFoundError:
        return False


def _download(lock: Lock, missing: Sequence[Jar], folder: Path, progress: Progress, pause_s: float) -> None:
    base_url = os.environ.get("GATELOG_MAVEN_URL") or MAVEN_CENTRAL
    cancelled = Event()
    largest_first = sorted(missing, key=lambda jar: -jar.size)
    downloads = [Download(jar, base_url, folder, cancelled, pause_s) for jar in largest_first]
    present = lock.size - sum(jar.size for jar in missing)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gatelog-download") as threads:
        try:
            futures = [threads.submit(download.run) for download in downloads]
            stage = f"download {lock.file.removesuffix('.lock')}"
            _watch(futures, downloads, stage, present, lock.size, progress)
        except DownloadError as error:
            raise LocalServiceError(_advice(error, lock, folder)) from error
        finally:  # after an error or Ctrl-C: the others end at their next chunk, what they have is resumed later
            cancelled.set()
            threads.shutdown(wait=False, cancel_futures=True)


def _watch(
    futures: Sequence[Future[None]],
    downloads: Sequence[Download],
    stage: str,
    present: int,
    total: int,
    progress: Progress,
) -> None:
    """Tell the progress from this thread until all are done; the first failure is raised."""
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, _PROGRESS_INTERVAL_S, FIRST_EXCEPTION)
        for future in finished:
            future.result()
        progress(stage, present + sum(download.done for download in downloads), total)


def _advice(error: DownloadError, lock: Lock, folder: Path) -> str:
    return (
        f"Cannot download {lock.title}. {error}\n"
        f"Its files ({len(lock.jars)}, {lock.size / 1e6:.0f} MB) are needed once. Go online and try again (it goes "
        "on where it stopped), set HTTPS_PROXY, set GATELOG_MAVEN_URL to a mirror of Maven Central, "
        f"or copy the files of another machine into {folder}."
    )
