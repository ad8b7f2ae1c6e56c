"""Whether a state that was read back is the same, with the types at which ``==`` does not look. Pure.

``Counter() == {}``, ``1 == 1.0 == True``, an enum of strings equals its string: a fold that goes on from the other
one adds up to something else, or fails.
"""

from collections import deque
from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

_PLAIN: Final = frozenset({str, int, bool, type(None), bytes, UUID})
_SAID_BY_REPR: Final = frozenset({float, Decimal})  # not a number, a zero's sign, digits after the point
_OF_A_ZONE: Final = frozenset({datetime, time})  # JSON knows its offset only, and not when its summer begins


def alike(here: object, there: object) -> bool:
    """Say whether two values are the same through and through. Raises whatever their own classes do."""
    return _form(here, {}) == _form(there, {})


def _form(value: Any, met: dict[int, int]) -> object:  # noqa: ANN401 - whatever a state holds
    """Return a value in plain tuples that are equal when it is the same: its class, content and attributes.

    ``met``: numbers of objects that can change, by identity. JSON does not keep that one is there twice, shared.
    """
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if kind in _SAID_BY_REPR:
        return kind, repr(value)
    if kind in _OF_A_ZONE:
        return kind, value, value.utcoffset(), value.tzinfo and value.tzinfo.utcoffset(None)
    if not isinstance(value, Hashable):
        if id(value) in met:
            return "shared", met[id(value)]
        met[id(value)] = len(met)
    attributes = _attributes(value)
    return kind, _content(value, met), tuple([(name, _form(each, met)) for name, each in attributes.items()])


def _content(value: Any, met: dict[int, int]) -> object:  # noqa: ANN401 - see above
    match value:
        case BaseModel():
            return None
        case Mapping():  # in its order
            items = [(_form(key, met), _form(each, met)) for key, each in value.items()]
            return getattr(value, "default_factory", None), tuple(items)
        case AbstractSet():
            return frozenset(_form(each, met) for each in value)
        case list() | tuple() | deque():
            return getattr(value, "maxlen", None), tuple([_form(each, met) for each in value])
        case _:
            return None if is_dataclass(value) else value


def _attributes(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 - see above
    """Return what an object has; of a fold's state without the version, which is not of the events."""
    if isinstance(value, (Enum, type)):
        return {}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    found: dict[str, Any] = getattr(value, "__dict__", {})
    if not isinstance(value, BaseModel) or not (value.__pydantic_private__ or value.__pydantic_extra__):
        return found
    found = found | (value.__pydantic_private__ or {}) | (value.__pydantic_extra__ or {})
    found.pop("_stream_version", None)
    return found
