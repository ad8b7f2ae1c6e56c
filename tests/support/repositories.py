"""Git repositories for the tests, made by ``git fast-import``: the same seed gives the same commits."""

import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ODD_PATHS = (
    "dir/ünïcödé → file.txt".encode(),
    b"line\nbreak and \x01mark",
    b"not utf-8 \xff\xfe",
    b"deep/" + b"x" * 300,
    b"with space/:100644 raw-like\t1",
    b"-starts-with-a-dash",
)
_GIT_ENVIRONMENT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def make_repository(path: Path, commits: int, seed: int = 1) -> Path:
    """Make a repository whose history adds, modifies, renames and deletes files, text and binary, and merges."""
    _git(path.parent, "init", "--quiet", "--bare", str(path))
    stream = b"".join(_history(random.Random(seed), commits))
    subprocess.run(["git", "-C", path, "fast-import", "--quiet"], input=stream, check=True, env=_environment())
    _git(path, "symbolic-ref", "HEAD", "refs/heads/main")
    return path


def commits_of(path: Path) -> int:
    """Count the commits that can change a file."""
    return int(_git(path, "rev-list", "--count", "--no-merges", "HEAD"))


def changes_per_file(path: Path) -> Counter[bytes]:
    """Count a history's changes of each file, the way a person would: with another ``git log`` than gatelog's."""
    told = _git(path, "log", "-z", "-M", "--no-merges", "--name-only", "--format=")
    return Counter(name.lstrip(b"\n") if name not in ODD_PATHS else name for name in told.split(b"\x00") if name)


def _history(chance: random.Random, commits: int) -> Iterator[bytes]:
    living: dict[bytes, bytes] = {}
    for number in range(1, commits + 1):
        merges = number > 2 and chance.random() < 0.02
        yield b"commit refs/heads/main\nmark :%d\n" % number
        author = chance.choice(["Ann <ann@example.org>", "Böb the 2nd <bob@example.org>", " <>"]).encode()
        yield b"author %s %d +0200\n" % (author, 1_600_000_000 + number)
        yield b"committer C <c@example.org> %d +0000\ndata 4\nwork\n" % (1_600_000_000 + number)
        if number > 1:
            yield b"from :%d\n" % (number - 1)
        if merges:
            yield b"merge :%d\n" % (number - 2)
        else:
            for _ in range(chance.randint(1, 4)):
                yield _change(chance, living, number)
        yield b"\n"


def _change(chance: random.Random, living: dict[bytes, bytes], number: int) -> bytes:
    what = chance.random()
    if living and what < 0.1:
        path = chance.choice(sorted(living))
        del living[path]
        return b"D %s\n" % _quoted(path)
    if living and what < 0.2:
        old = chance.choice(sorted(living))
        new = b"renamed/%d" % number
        if new in living:
            return b""
        living[new] = living.pop(old)
        return b"R %s %s\n" % (_quoted(old), _quoted(new))
    if living and what < 0.7:
        path = chance.choice(sorted(living))
    else:
        path = chance.choice([*ODD_PATHS, b"src/f%d.py" % number, b"docs/%d.txt" % chance.randint(1, 40)])
    binary = path.endswith(b"7.txt")
    living[path] = living.get(path, b"") + (bytes([0, number % 256]) if binary else b"line %d\n" % number)
    return b"M 100644 inline %s\ndata %d\n%s\n" % (_quoted(path), len(living[path]), living[path])


def _quoted(path: bytes) -> bytes:
    return (
        b'"'
        + b"".join(b"\\%03o" % byte if byte < 33 or byte > 126 or byte in b'"\\' else bytes([byte]) for byte in path)
        + b'"'
    )


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", folder, *arguments], check=True, capture_output=True, env=_environment()
    ).stdout


def _environment() -> dict[str, str]:
    return {**os.environ, **_GIT_ENVIRONMENT}
