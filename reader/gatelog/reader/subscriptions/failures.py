"""When a handler does not succeed: what it may ask for, and what is done about an exception. Pure."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gatelog.core.errors import InvalidInputError
from gatelog.core.telling import causes, cut

DELAY_MAX_S: Final = 3600.0


class Outcome(Exception):  # noqa: N818 - a wish of the handler, returned or raised, not an error
    """What a handler may ask for, by returning or raising it."""

    def __init__(self, reason: str) -> None:
        self.reason = cut(str(reason))
        super().__init__(self.reason)


class Retry(Outcome):
    """Handle the event again, after ``after_s`` seconds, or as the subscription backs off by itself.

    It counts as an attempt: after ``Failures.attempts_max`` of them the event is treated as failed.
    """

    def __init__(self, reason: str = "the handler asked for a retry", *, after_s: float | None = None) -> None:
        if after_s is not None and not after_s >= 0:
            raise InvalidInputError(f"Retry: after_s is {after_s}; it must be a number of seconds from 0 on.")
        self.after_s = after_s
        super().__init__(reason)


class Park(Outcome):
    """Park the event at once."""


class Skip(Outcome):
    """Take the event for handled; logged with the reason."""


class Stop(Outcome):
    """End the subscription. ``handled`` says whether this event counts as handled or comes again."""

    def __init__(self, reason: str = "the handler asked for it", *, handled: bool = True) -> None:
        self.handled = handled
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Failures:
    """What is done about an event whose handler raises.

    It is handled again after ``first_delay_s``, twice that, and so on, up to ``delay_max_s``, each time with a
    random part taken off; other streams go on meanwhile. After ``attempts_max`` attempts, ``then``: ``"park"`` it,
    ``"stop"`` the subscription with the exception, or ``"skip"`` it with a log line. With ``hold_stream``, later
    events of a parked event's stream are parked too, in order, until it is replayed or dropped; without, they are
    handled.

    Raises:
        InvalidInputError: a number is out of its range.
    """

    attempts_max: int = 8
    first_delay_s: float = 0.2
    delay_max_s: float = 30.0
    then: Literal["park", "stop", "skip"] = "park"
    hold_stream: bool = True

    def __post_init__(self) -> None:
        if self.attempts_max < 1:
            raise InvalidInputError(f"Failures: attempts_max is {self.attempts_max}; at least 1.")
        if self.then not in {"park", "stop", "skip"}:
            raise InvalidInputError(f"Failures: then is {self.then!r}; it is 'park', 'stop' or 'skip'.")
        if not 0 <= self.first_delay_s <= self.delay_max_s <= DELAY_MAX_S:
            raise InvalidInputError(
                f"Failures: first_delay_s {self.first_delay_s:g}, delay_max_s {self.delay_max_s:g}: they must rise, "
                f"from 0 to {DELAY_MAX_S:g}."
            )

    def delay_s(self, attempts: int, chance: Callable[[], float]) -> float:
        """Return how long to wait after ``attempts`` attempts; ``chance`` gives a number from 0 to 1."""
        whole: float = min(self.delay_max_s, self.first_delay_s * 2.0 ** min(attempts - 1, 32))
        return whole * (0.5 + 0.5 * chance())


@dataclass(frozen=True, slots=True)
class Done:
    """The event is handled."""


@dataclass(frozen=True, slots=True)
class Later:
    """It is tried again after a while."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Parked:
    """It goes to the parked topic."""

    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """It is passed over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The subscription ends; with an error, or because the handler asked for it."""

    handled: bool
    error: BaseException | None
    reason: str


Verdict: TypeAlias = Done | Later | Parked | Skipped | Stopped


def judge(result: object, attempts: int, failures: Failures, chance: Callable[[], float]) -> Verdict:
    """Return what happens after the ``attempts``-th attempt: ``result`` is what the handler returned or raised.

    A returned value that is no ``Outcome`` is success, unless it shows that something was not done.
    """
    match result:
        case Skip():
            return Skipped(reason_of(result))
        case Park():
            return Parked(reason_of(result))
        case Stop():
            return Stopped(result.handled, None, reason_of(result))
        case Retry() | Exception():
            return _after_failure(result, attempts, failures, chance)
        case type() if issubclass(result, BaseException):
            mistake = f"the class {result.__name__}; call it: {result.__name__}(…)"
        case BaseException():
            mistake = f"a {type(result).__name__}; raise it"
        case _ if inspect.isawaitable(result) or inspect.isasyncgen(result):
            mistake = f"a {type(result).__name__}; await what it does"
            if inspect.iscoroutine(result):
                result.close()  # or Python says as well that nobody has awaited it
        case _:
            return Done()
    return _after_failure(TypeError(f"the handler returned {mistake}"), attempts, failures, chance)


def _after_failure(error: Exception, attempts: int, failures: Failures, chance: Callable[[], float]) -> Verdict:
    reason = reason_of(error)
    if attempts < failures.attempts_max:
        wanted = error.after_s if isinstance(error, Retry) else None
        return Later(failures.delay_s(attempts, chance) if wanted is None else min(wanted, DELAY_MAX_S), reason)
    if failures.then == "park":
        return Parked(reason)
    return Skipped(reason) if failures.then == "skip" else Stopped(False, error, reason)


def reason_of(error: Exception) -> str:
    """Return what happened, with its causes; of a wish of the handler, what it says of it."""
    first, *behind = causes(error)
    kind = type(error).__name__
    own = error.reason if isinstance(error, Outcome) else first if first.startswith(kind) else f"{kind}: {first}"
    return cut("; caused by ".join([own, *behind]))
