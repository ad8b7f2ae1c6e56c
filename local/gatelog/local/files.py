"""File system steps that survive a kill at any moment: atomic writes and a lock between processes."""

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatelog.core.errors import LocalServiceError

_POLL_INTERVAL_S = 0.05


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace the file as a whole: a reader, or a start after a crash, sees the old text or the new one."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)  # the umask, or a file left by a crash, may say otherwise
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def make_folder(path: Path) -> Path:
    """Make the folder if it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalServiceError(f"Cannot make the folder {path}: {error.strerror}.") from error
    return path


def unfinished(path: Path) -> Path:
    """A name beside ``path`` to build it under and then rename; what earlier attempts left is removed.

    Never the same name twice: the program of an attempt that was killed may still be at work.
    """
    for left in path.parent.glob(f"{path.name}.new-*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")


@contextmanager
def file_lock(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock that the kernel releases when the holder dies, however it dies."""
    descriptor = _lock(path, time.monotonic() + timeout_s)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, deadline: float) -> int:
    while True:
        descriptor = _open(path)
        if _try_lock(descriptor) and _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise LocalServiceError(f"Another process holds {path} for too long. Wait for it, or end it.")
        time.sleep(_POLL_INTERVAL_S)


def _open(path: Path) -> int:
    make_folder(path.parent)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:  # the folder was destroyed between the two steps
        return _open(path)
    except OSError as error:
        raise LocalServiceError(f"Cannot write {path}: {error.strerror}.") from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whoever held the lock before may have removed the file: then this lock guards nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
