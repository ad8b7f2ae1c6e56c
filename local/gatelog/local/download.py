"""One file from a Maven repository: resumed where it stopped, verified, and complete or not there at all."""

import http.client
import re
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from gatelog.core.errors import LocalServiceError
from gatelog.local.lockfile import Jar, file_sha256

ATTEMPTS_MAX = 5
_FIRST_PAUSE_S = 0.5
_SILENCE_MAX_S = 20.0
_CHUNK_BYTES = 1 << 16
_TRANSIENT_STATUS = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


class DownloadError(LocalServiceError):
    """A jar could not be downloaded."""


class _BadContentError(Exception):
    """What arrived is not what the lock file says."""


class Download:
    """The download of one jar. ``done`` may be read by another thread; ``cancelled`` is asked at every chunk."""

    def __init__(
        self,
        jar: Jar,
        base_url: str,
        folder: Path,
        cancelled: Event,
        pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        if urlsplit(base_url).scheme not in {"http", "https"}:
            raise DownloadError(f"GATELOG_MAVEN_URL must be an http or https URL, not {base_url!r}.")
        self.jar, self.url = jar, f"{base_url.rstrip('/')}/{jar.path}"
        self.done = 0
        self._target = folder / jar.name
        self._part = folder / f"{jar.name}.part"
        self._cancelled = cancelled
        self._pause_s = pause_s

    def run(self) -> None:
        """Download, verify, and only then give the file its name."""
        try:
            self._fetch_verified()
        except _BadContentError:  # a proxy may have sent an error page once; a second time is no accident
            try:
                self._fetch_verified()
            except _BadContentError as error:
                raise DownloadError(
                    f"{self.url} is not what its lock file says ({error}). It was deleted."
                ) from error
        self._part.replace(self._target)

    def _fetch_verified(self) -> None:
        try:
            self._fetch_with_retries()
            if (actual := file_sha256(self._part)) != self.jar.sha256:
                raise _BadContentError(f"SHA-256 {actual}, expected {self.jar.sha256}")
        except _BadContentError:
            self._part.unlink(missing_ok=True)
            raise

    def _fetch_with_retries(self) -> None:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self._fetch()
            except (OSError, http.client.HTTPException) as error:
                _close(error)
                if _is_beyond_end(error):
                    raise _BadContentError(f"the server's file is shorter than {self.jar.size:,} bytes") from error
                if attempt == ATTEMPTS_MAX or not _is_transient(error) or self._cancelled.is_set():
                    raise DownloadError(f"{self.url}: {_reason(error)}") from error
            self._cancelled.wait(self._pause_s * 2 ** (attempt - 1))
        return None

    def _fetch(self) -> None:
        """One request for what is still missing. Ends when the size is right, else raises."""
        have = self._resumable_size()
        self.done = have
        if have == self.jar.size:  # stopped between the last byte and the new name
            return
        request = urllib.request.Request(self.url, headers={"User-Agent": "gatelog"})  # noqa: S310 (checked above)
        if have:
            request.add_header("Range", f"bytes={have}-")
        with urllib.request.urlopen(request, timeout=_SILENCE_MAX_S) as response:  # noqa: S310 (http or https)
            self._store(response, append=_continues_at(response, have))

    def _resumable_size(self) -> int:
        have = self._part.stat().st_size if self._part.exists() else 0
        if have <= self.jar.size:
            return have
        self._part.unlink()
        return 0

    def _store(self, response: http.client.HTTPResponse, *, append: bool) -> None:
        with self._part.open("ab" if append else "wb") as file:
            self.done = file.tell()
            while chunk := response.read(_CHUNK_BYTES):
                self.done += file.write(chunk)
                if self.done > self.jar.size:
                    raise _BadContentError(f"more than {self.jar.size:,} bytes")
                if self._cancelled.is_set():
                    raise DownloadError("Cancelled.")
        if self.done < self.jar.size:
            raise http.client.IncompleteRead(b"", self.jar.size - self.done)


def _continues_at(response: http.client.HTTPResponse, offset: int) -> bool:
    """Whether the answer is the rest of the file. A server may ignore Range and send all of it."""
    sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return False
    if sent is None or int(sent[1]) != offset:
        raise _BadContentError(f"part {response.headers.get('Content-Range')!r} instead of the one from {offset}")
    return True


def _is_transient(error: Exception) -> bool:
    return error.code in _TRANSIENT_STATUS if isinstance(error, urllib.error.HTTPError) else True


def _is_beyond_end(error: Exception) -> bool:
    return isinstance(error, urllib.error.HTTPError) and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def _close(error: Exception) -> None:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection's socket


def _reason(error: Exception) -> str:
    return str(error.reason if isinstance(error, urllib.error.URLError) else error) or type(error).__name__
