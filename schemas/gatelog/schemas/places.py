"""Where the source of a model says something: the lines of classes and fields."""

import ast
import inspect
from functools import cache
from pathlib import Path

from gatelog.schemas.located import Place


def place_in(owner: type, field: str | None) -> Place | None:
    """Return where a class, or a field of it or of its bases, is written; None if there is no source to look at."""
    for each in owner.__mro__ if field else (owner,):
        if field is None or field in vars(each).get("__annotations__", {}):
            return _place(each, field)
    return None


def _place(owner: type, field: str | None) -> Place | None:
    try:
        file = inspect.getsourcefile(owner)
    except (OSError, TypeError):  # made at run time, or built in
        return None
    line = _lines(file).get((owner.__qualname__, field)) if file else None
    return Place(_shown(Path(file)), line) if file and line else None


def _shown(file: Path) -> str:
    """Paths are shown as they are seen from the working directory."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


@cache
def _lines(file: str) -> dict[tuple[str, str | None], int]:
    found: dict[tuple[str, str | None], int] = {}
    try:
        _walk(ast.parse(Path(file).read_text(encoding="utf-8")), "", found)
    except (OSError, ValueError, SyntaxError):
        return {}
    return found


def _walk(node: ast.AST, prefix: str, found: dict[tuple[str, str | None], int]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            found[(f"{prefix}{child.name}", None)] = child.lineno
            _walk(child, f"{prefix}{child.name}.", found)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            _walk(child, f"{prefix}{child.name}.<locals>.", found)
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            found[(prefix.rstrip("."), child.target.id)] = child.lineno
        else:
            _walk(child, prefix, found)
