"""What the distribution promises: one namespace, public names, one tree of errors."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatelog.core import errors
from gatelog.core.migrations import of

ROOT = Path(__file__).parents[2]
PARTS = ("core", "schemas", "producer", "indexer", "reader", "console", "local", "testing")


def _errors() -> Iterator[type[errors.GatelogError]]:
    for found in vars(errors).values():
        if inspect.isclass(found) and issubclass(found, errors.GatelogError):
            yield found


def test_gatelog_is_a_namespace_that_every_part_extends() -> None:
    for part in PARTS:
        assert not (ROOT / part / "gatelog" / "__init__.py").exists()
        assert (ROOT / part / "gatelog" / part / "__init__.py").exists()
        assert (ROOT / part / "gatelog" / part / "py.typed").exists()


@pytest.mark.parametrize("part", ["schemas", "producer", "indexer", "reader", "local", "testing"])
def test_public_names_exist_and_are_documented(part: str) -> None:
    module = importlib.import_module(f"gatelog.{part}")
    assert module.__doc__
    for name in module.__all__:
        found = getattr(module, name)
        assert not inspect.isclass(found) or found.__doc__, name


@pytest.mark.parametrize("error", list(_errors()), ids=lambda error: error.__name__)
def test_errors_have_an_exit_code_and_a_docstring(error: type[errors.GatelogError]) -> None:
    assert error.__doc__
    assert 1 <= error.exit_code <= 12
    assert error is errors.GatelogError or error.exit_code > 1, "scripts tell errors apart by exit code"


@pytest.mark.parametrize(
    "package", ["gatelog.schemas", "gatelog.producer", "gatelog.indexer", "gatelog.reader.folds"]
)
def test_migrations_are_numbered_without_a_gap(package: str) -> None:
    assert [migration.number for migration in of(package)] == list(range(1, len(of(package)) + 1))
