"""What is being handled right now: events that a handler appends are caused by it, and belong to its story."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from gatelog.schemas.envelope import RecordedEvent

_handled: Final[ContextVar[RecordedEvent | None]] = ContextVar("gatelog_handled", default=None)


def cause() -> RecordedEvent | None:
    """Return the event that this task is handling, if any."""
    return _handled.get()


@contextmanager
def handling(event: RecordedEvent) -> Iterator[None]:
    """Make ``event`` the cause of what is appended inside, in tasks that are started inside too."""
    token = _handled.set(event)
    try:
        yield
    finally:
        _handled.reset(token)
