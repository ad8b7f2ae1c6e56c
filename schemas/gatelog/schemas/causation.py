"""What is being handled right now: events that a handler appends are caused by it, and belong to its story."""

from contextvars import ContextVar
from typing import Final

from gatelog.schemas.envelope import RecordedEvent

_handled: Final[ContextVar[RecordedEvent | None]] = ContextVar("gatelog_handled", default=None)


def cause() -> RecordedEvent | None:
    """Return the event that this task is handling, if any."""
    return _handled.get()


class handling:  # noqa: N801 - used as a function; a generator would cost several times as much for each event
    """Make ``event`` the cause of what is appended inside, in tasks that are started inside too."""

    __slots__ = ("_event", "_token")

    def __init__(self, event: RecordedEvent) -> None:
        """Take note of the event."""
        self._event = event

    def __enter__(self) -> None:
        self._token = _handled.set(self._event)

    def __exit__(self, *_: object) -> None:
        _handled.reset(self._token)
