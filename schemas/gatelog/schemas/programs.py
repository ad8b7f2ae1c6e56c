"""Other programs: git, ruff, and Python on another tree. Run to their end, within a time."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gatelog.core.errors import SchemaError

TIMEOUT_S: Final = 120.0


def run(
    command: Sequence[str],
    missing: str,
    *,
    stdin: bytes = b"",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run a program, without a shell, and return what it printed and how it ended.

    Raises:
        SchemaError: it is not there (``missing`` says what to do), or takes more than two minutes.
    """
    try:
        return subprocess.run(  # noqa: S603 - no shell, and fixed programs
            command, check=False, input=stdin, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise SchemaError(missing) from None
    except subprocess.TimeoutExpired:
        raise SchemaError(f"{' '.join(command[:3])} … took more than {TIMEOUT_S:g} s.") from None
