"""What a command ends with when it fails: the error, what caused it, and where the user's own code failed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from gatelog.core import logs
from gatelog.core.errors import GatelogError
from gatelog.core.telling import causes, told, traced

UNEXPECTED: Final = 1  # exit code


def print_failure(error: Exception) -> int:
    """Print an error for people, on standard error; return the exit code."""
    first, *behind = causes(error)
    lines = [f"error: {first}", *(f"  caused by {cause}" for cause in behind)]
    if trace := _trace(error):
        lines.append(trace)
    Console(stderr=True, soft_wrap=True).print("\n".join(lines), style="red", markup=False, highlight=False)
    return _exit_code(error)


@contextmanager
def logged_as_json(is_json: bool) -> Iterator[None]:
    """Let what ends a service be the last line of its logs, where those are for programs."""
    try:
        yield
    except Exception as error:
        if not is_json:
            raise
        code = _exit_code(error)
        logs.logger("services").error("service.failed", error=told(error), exit_code=code, trace=_trace(error))
        sys.exit(code)


def _exit_code(error: Exception) -> int:
    return error.exit_code if isinstance(error, GatelogError) else UNEXPECTED


def _trace(error: Exception) -> str:
    """Return the traceback of the user's own code, or of what nobody expected."""
    if not isinstance(error, GatelogError):
        return traced(error)
    return traced(error.__cause__) if error.is_of_program and error.__cause__ is not None else ""
