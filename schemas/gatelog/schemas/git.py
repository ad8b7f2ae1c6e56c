"""Schemas as they were: at a git ref, and in the commits before it."""

import io
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from gatelog.core.errors import SchemaError
from gatelog.core.programs import import_module
from gatelog.schemas.located import loads
from gatelog.schemas.programs import run
from gatelog.schemas.registry import AvroSchema
from gatelog.schemas.sources import SUFFIX, Sources, from_texts

HISTORY_COMMITS_MAX: Final = 200


class Repository:
    """The git repository of the working directory."""

    def __init__(self, folder: Path) -> None:
        """Find it.

        Raises:
            SchemaError: ``folder`` is not in a git repository, or there is no git.
        """
        self._folder = folder.resolve()
        self.root = Path(self._git("rev-parse", "--show-toplevel").decode().strip())

    def commit(self, ref: str) -> str:
        """Return the commit that a ref stands for.

        Raises:
            SchemaError: there is none.
        """
        try:
            return (
                self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
                .decode()
                .strip()
            )
        except SchemaError:
            raise SchemaError(
                f"Git knows no {ref!r}. A shallow clone has no other branches: fetch it first "
                f"(`git fetch origin {ref}`, and compare with origin/{ref})."
            ) from None

    def definitions(self, commit: str, sources: Sources) -> dict[str, AvroSchema]:
        """Return the subjects that the same files and modules defined at a commit.

        Raises:
            SchemaError: they were not legal, or did not load.
        """
        found = from_texts(
            (path, loads(self._git("show", f"{commit}:{path}").decode(errors="replace"), f"{commit[:10]}:{path}"))
            for path in self._paths(commit, sources.paths)
        )
        return {**found, **(self._models(commit, sources.modules) if sources.modules else {})}

    def history(self, commit: str, files: Iterable[Path]) -> list[str]:
        """Return the commits, oldest first and ``commit`` the last, that changed any of the files or folders.

        Raises:
            SchemaError: there are more than 200.
        """
        names = sorted({str(self._relative(file)) for file in files})
        command = ("log", "--format=%H", f"--max-count={HISTORY_COMMITS_MAX + 1}", commit, "--", *names)
        commits = self._git(*command, folder=self.root).decode().split()
        if len(commits) > HISTORY_COMMITS_MAX:
            raise SchemaError(
                f"More than {HISTORY_COMMITS_MAX} commits changed these schemas. Compare with the registry, which "
                "has every version that was registered, or say a level that is not TRANSITIVE."
            )
        return [*reversed([each for each in commits if each != commit]), commit]

    def _paths(self, commit: str, paths: Sequence[Path]) -> list[Path]:
        wanted = [self._relative(path) for path in paths]
        if not wanted:
            return []
        listed = self._git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).decode(errors="replace")
        files = [Path(name) for name in listed.split("\0") if name]
        return [
            file
            for file in files
            if file in wanted or (file.suffix == SUFFIX and any(file.is_relative_to(path) for path in wanted))
        ]

    def _models(self, commit: str, modules: Sequence[str]) -> dict[str, AvroSchema]:
        """Import the modules of the commit in a process of its own, from a copy of the commit's files."""
        with tempfile.TemporaryDirectory(prefix="gatelog-schemas-") as folder:
            copy = Path(folder) / "tree"
            with tarfile.open(
                fileobj=io.BytesIO(self._git("archive", "--format=tar", commit, folder=self.root))
            ) as tar:
                tar.extractall(copy, filter="data")
            output = Path(folder) / "schemas.json"
            if reason := self._export(copy, output, modules):
                raise SchemaError(f"The models at commit {commit[:10]} cannot be read: {reason.splitlines()[-1]}")
            found: dict[str, AvroSchema] = json.loads(output.read_text(encoding="utf-8"))
            return found

    def _export(self, copy: Path, output: Path, modules: Sequence[str]) -> str | None:
        """Write the schemas to a file; return what went wrong, if anything did."""
        roots = [copy / self._relative(_import_root(module)) for module in modules]
        here = copy / self._folder.relative_to(self.root)
        path = os.pathsep.join([*map(str, roots), str(here), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "gatelog.schemas.exporting", str(output), *modules]
        done = run(
            command,
            "Python cannot be started again.",
            folder=here if here.is_dir() else copy,
            environment={**os.environ, "PYTHONPATH": path},
        )
        return None if done.returncode == 0 else done.stderr.decode(errors="replace").strip() or "it ended silently"

    def _relative(self, path: Path) -> Path:
        absolute = (self._folder / path).resolve()
        if not absolute.is_relative_to(self.root):
            raise SchemaError(f"{path} is not in the git repository {self.root}.")
        return absolute.relative_to(self.root)

    def _git(self, *arguments: str, folder: Path | None = None) -> bytes:
        command = ["git", "-C", str(folder or self._folder), *arguments]
        done = run(command, "Comparing with a git ref needs git.")
        if done.returncode != 0:
            raise SchemaError(f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def _import_root(module: str) -> Path:
    """Return the folder that Python finds a module in, for ``src/shop/events.py`` and shop.events: ``src``."""
    file = import_module(module).__file__
    if file is None:
        raise SchemaError(f"Module {module} has no file; name one of its modules.")
    depth = len(module.split(".")) + (Path(file).name == "__init__.py")
    return Path(file).resolve().parents[depth - 1]
