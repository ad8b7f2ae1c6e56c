"""Upcasters: functions that bring old payloads forward where Avro's rules cannot.

    @upcast(OrderPlaced, from_version=1)
    def _(payload: dict[str, Any]) -> dict[str, Any]:  # a payload of version 1 in, one of version 2 out
        return {**payload, "total": sum(item["price"] for item in payload["items"])}

A version is the number that the registry gave to a schema of the event type, or the one that the schema itself pins
(``class OrderPlaced(Event, schema_version=3)``). What is stored is never rewritten.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from gatelog.core.errors import SchemaError
from gatelog.schemas.event import Event, check_event_type

Payload: TypeAlias = dict[str, Any]
EventType: TypeAlias = type[Event] | str


@dataclass(frozen=True, slots=True)
class Part:
    """One of the events that an upcaster makes of a stored one.

    ``data`` is a payload of ``version`` of the type; None: of the newest model. It is brought forward from there.
    """

    type: EventType
    data: Payload
    version: int | None = None

    @property
    def event_type(self) -> str:
        """The event type's name."""
        return name_of(self.type)


Upcaster: TypeAlias = Callable[[Payload], Payload | Sequence[Part]]


@dataclass(frozen=True, slots=True)
class Step:
    """One upcaster, and what it takes and makes. ``into`` is None when it makes the next version of its type."""

    event_type: str
    from_version: int
    into: tuple[str, ...] | None
    function: Upcaster

    def __str__(self) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"upcaster {name} of {self.event_type} from version {self.from_version}"


_steps: Final[dict[str, dict[int, Step]]] = {}


def upcast(
    event: EventType, *, from_version: int, into: EventType | Iterable[EventType] | None = None
) -> Callable[[Upcaster], Upcaster]:
    """Say that the decorated function brings payloads of ``event`` from ``from_version`` to the next version.

    With ``into``, the events of that version become others: one type renames them (return its payload, of its newest
    model), several split them (return ``Part``s, at least one; each says its type). A stored event that is split is
    read as several events with the same stream, version, position and id, and ``part`` 1, 2, … of ``parts``.

    Raises:
        SchemaError: the version is below 1, or has an upcaster already.
    """
    name = name_of(event)
    if from_version < 1:
        raise SchemaError(f"@upcast({name}, from_version={from_version}): versions begin at 1.")
    targets = None if into is None else (into,) if isinstance(into, (str, type)) else tuple(into)
    names = None if targets is None else tuple(name_of(each) for each in targets)
    if names == ():
        raise SchemaError(f"@upcast({name}, from_version={from_version}): into names no event type.")

    def remember(function: Upcaster) -> Upcaster:
        step = Step(name, from_version, names, function)
        known = _steps.setdefault(name, {}).setdefault(from_version, step)
        if known is not step and not _is_reloaded(known, step):
            raise SchemaError(f"There are two upcasters of {name} from version {from_version}: {known} and {step}.")
        _steps[name][from_version] = step
        return function

    return remember


def name_of(event: EventType) -> str:
    """Return the name of an event type that is given as a model or by name.

    Raises:
        SchemaError: it is not a legal name.
    """
    return check_event_type(event) if isinstance(event, str) else event.event_type


def steps_of(event_type: str) -> dict[int, Step]:
    """Return the upcasters of an event type by the version that they take."""
    return _steps.get(event_type, {})


def upcast_types() -> set[str]:
    """Return the event types that have upcasters."""
    return {name for name, steps in _steps.items() if steps}


def stored_types_of(event_types: Iterable[str]) -> set[str]:
    """Return the types of stored events that may be read as one of ``event_types``, these included."""
    found, left = set(event_types), list(event_types)
    while left:
        wanted = left.pop()
        for name, steps in _steps.items():
            if name not in found and any(step.into and wanted in step.into for step in steps.values()):
                found.add(name)
                left.append(name)
    return found


def forget(event_type: str) -> None:
    """Drop the upcasters of an event type: for tests."""
    _steps.pop(event_type, None)


def _is_reloaded(known: Step, step: Step) -> bool:
    """The same function again: its module was imported anew."""
    one, other = known.function, step.function
    return (
        getattr(one, "__module__", 1) == getattr(other, "__module__", 2)
        and getattr(one, "__code__", None) is not None
        and (one.__code__.co_firstlineno == other.__code__.co_firstlineno)
    )
