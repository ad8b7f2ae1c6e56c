"""Names of categories and event types, as callers give them: checked, because a name that cannot be finds nothing."""

from collections.abc import Iterable
from typing import Any

from gatelog.core.domain import check_stream_id
from gatelog.core.errors import InvalidInputError, InvalidStreamIdError
from gatelog.schemas.event import Event, check_event_type


def category_names(given: Iterable[str]) -> tuple[str, ...]:
    """Return the categories.

    Raises:
        InvalidInputError: one text instead of several, whose letters would be taken; or no legal category.
    """
    names = several("categories", given)
    for name in names:
        try:
            legal = isinstance(name, str) and "-" not in name and bool(check_stream_id(f"{name}-x"))
        except InvalidStreamIdError:
            legal = False
        if not legal:
            raise InvalidInputError(f"categories: {name!r} is none; it is what stands before the '-' of a stream id.")
    return names


def type_names(given: Iterable[type[Event] | str]) -> tuple[str, ...]:
    """Return the names of event types.

    Raises:
        InvalidInputError: one text instead of several; or neither a type's name nor its model.
        SchemaError: a name is not legal.
    """
    return tuple(map(_type_of, several("types", given)))


def several(what: str, given: Iterable[object]) -> tuple[Any, ...]:
    """Return what was given, unless it is one text, whose letters would be taken.

    Raises:
        InvalidInputError: it is.
    """
    if isinstance(given, (str, bytes, type)):
        raise InvalidInputError(f"{what}: give several, [{given!r}], not one alone.")
    return tuple(given)


def _type_of(given: type[Event] | str) -> str:
    if isinstance(given, str):
        return check_event_type(given)
    if isinstance(given, type) and issubclass(given, Event):
        return given.event_type
    raise InvalidInputError(f"types: {given!r} is neither an event type nor its model.")
