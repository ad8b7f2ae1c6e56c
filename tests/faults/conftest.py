"""Servers of a test's own: the shared ones have other users."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatelog.local import LocalServices


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalServices]:
    """Servers that may be killed; what a test needs, it starts."""
    services = LocalServices(tmp_path / "own")
    yield services
    services.destroy()
