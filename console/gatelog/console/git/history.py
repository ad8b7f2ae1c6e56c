"""Reads the history of a repository from ``git log``, oldest commit first, whatever the user's git settings are.

Merge commits count for nothing, as in ``git log``'s own diffs: their changes stand in the commits merged.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from gatelog.core.errors import InvalidInputError

_COMMIT_MARK: Final = b"\x01"
_FORMAT: Final = "%x01%H%x00%an%x00%ae%x00%at"
_NUMBERS: Final = re.compile(rb"(\d+|-)\t(\d+|-)\t(.*)", re.DOTALL)
_READ_BYTES: Final = 1 << 16
_LATEST_TIME_S: Final = 253_402_300_799  # the last second of the year 9999; clocks of authors may be anything
_SETTINGS: Final = (
    "diff.renames=true",
    "diff.renameLimit=1000",
    "diff.orderFile=/dev/null",
    "diff.ignoreSubmodules=none",
    "log.showRoot=true",
    "log.showSignature=false",
    "log.diffMerges=off",
    "i18n.logOutputEncoding=UTF-8",
)


@dataclass(frozen=True, slots=True)
class Commit:
    """Who changed something, and when."""

    id: str
    author: str
    email: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit did to one path. ``status``: A, M, R, D as git says (a change of type is M)."""

    commit: Commit
    status: str
    path: bytes
    old_path: bytes | None
    lines_added: int | None
    lines_removed: int | None


class Repository:
    """A git repository, bare ones too, seen from one revision."""

    def __init__(self, path: Path, revision: str = "HEAD") -> None:
        """Look whether there is a history.

        Raises:
            InvalidInputError: git is not installed, this is no repository, or it has no such revision.
        """
        self._path = path.resolve()
        self.revision = self._ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if not self.revision:
            raise InvalidInputError(f"{self._path}: the repository has no commit {revision!r}.")
        self.commits = int(self._ask("rev-list", "--count", "--no-merges", self.revision))
        self.root = self._ask("rev-list", "--max-parents=0", self.revision).split("\n")[-1]

    def changes(self) -> Iterator[list[Change]]:
        """Yield the changes commit by commit, an empty list for a commit that changed no file.

        Raises:
            InvalidInputError: git failed; its own words are in the message.
        """
        arguments = ("log", "-z", "--reverse", "--topo-order", "--no-merges", "-M", "--raw", "--numstat")
        options = ("--no-abbrev", "--no-color", "--no-ext-diff", "--no-textconv", "--no-use-mailmap")
        command = self._command(*arguments, *options, f"--format={_FORMAT}", self.revision)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as git:  # noqa: S603 - no shell
            try:
                assert git.stdout is not None
                assert git.stderr is not None
                yield from _commits(_tokens(git.stdout))
                if git.wait():
                    raise InvalidInputError(f"{self._path}: git log failed: {git.stderr.read().decode().strip()}")
            finally:
                git.kill()

    def _ask(self, *arguments: str) -> str:
        command = self._command(*arguments)
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
        except FileNotFoundError as error:
            raise InvalidInputError("git is not installed: it reads the history.") from error
        if answer.returncode and answer.stderr:
            raise InvalidInputError(f"{self._path}: {answer.stderr.strip()}")
        return answer.stdout.strip()

    def _command(self, *arguments: str) -> list[str]:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        return ["git", "-C", str(self._path), "--no-pager", *settings, *arguments]


def _tokens(stream: IO[bytes]) -> Iterator[bytes]:
    """What stands between NUL bytes."""
    rest = b""
    while block := stream.read(_READ_BYTES):
        *whole, rest = (rest + block).split(b"\x00")
        yield from whole
    if rest:
        yield rest


def _commits(tokens: Iterator[bytes]) -> Iterator[list[Change]]:
    """Git gives a commit's header, then its raw entries (what), then its numbers (how much), in the same order."""
    commit: Commit | None = None
    paths: list[tuple[str, bytes, bytes | None]] = []
    lines: list[tuple[int | None, int | None]] = []
    for token in tokens:
        entry = token.lstrip(b"\n")
        if entry.startswith(_COMMIT_MARK):
            if commit is not None:
                yield _changes(commit, paths, lines)
            commit, paths, lines = _header(entry, tokens), [], []
        elif entry.startswith(b":"):
            status = entry.rsplit(b" ", 1)[1][:1].decode()
            old = next(tokens) if status in "RC" else None
            paths.append((status, next(tokens), old))
        elif entry:
            lines.append(_numbers(entry, tokens))
    if commit is not None:
        yield _changes(commit, paths, lines)


def _header(mark: bytes, tokens: Iterator[bytes]) -> Commit:
    author, email, at = (next(tokens).decode(errors="replace") for _ in range(3))
    time_s = min(max(int(at or 0), 0), _LATEST_TIME_S)
    return Commit(mark[1:].decode(), author, email, datetime.fromtimestamp(time_s, UTC))


def _numbers(entry: bytes, tokens: Iterator[bytes]) -> tuple[int | None, int | None]:
    match = _NUMBERS.fullmatch(entry)
    if match is None:
        raise InvalidInputError(f"git log said {entry!r}, which is neither a change nor its numbers.")
    added, removed, path = match.groups()
    if not path:  # a rename: both paths follow
        next(tokens), next(tokens)
    return (None if added == b"-" else int(added)), (None if removed == b"-" else int(removed))


def _changes(
    commit: Commit, paths: list[tuple[str, bytes, bytes | None]], lines: list[tuple[int | None, int | None]]
) -> list[Change]:
    return [
        Change(commit, status if status in "AMRD" else "M", path, old, added, removed)
        for (status, path, old), (added, removed) in zip(paths, lines, strict=True)
    ]
