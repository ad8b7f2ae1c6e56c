"""Fields that are to be indexed: ``customer: Annotated[str, Indexed()]`` in a model of an event."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, NaiveDatetime

from gatelog.core.errors import SchemaError
from gatelog.schemas.event import Event

Kind: TypeAlias = Literal["number", "text"]

_NUMBERS: Final = (int, float, Decimal)
_TEXTS: Final = (str, UUID, date, datetime, time, Enum)


@dataclass(frozen=True, slots=True)
class Indexed:
    """Says that the index should answer conditions on a field at once. ``gatelog index fields`` makes it so."""


class IndexedField(NamedTuple):
    """A field of an event type that is to be indexed: the names on the way to it, and how it is compared."""

    event_type: str
    path: tuple[str, ...]
    kind: Kind

    def __str__(self) -> str:
        return f"{self.event_type}.{'.'.join(self.path)}"


def indexed_fields(model: type[Event]) -> list[IndexedField]:
    """Return the fields of a model, and of models in it, that are marked as ``Indexed``.

    Raises:
        SchemaError: a marked field is neither a number nor a text, id or time.
    """
    return [IndexedField(model.event_type, path, kind) for path, kind in _walk(model, (), {model})]


def _walk(model: type[BaseModel], before: tuple[str, ...], seen: set[Any]) -> Iterator[tuple[tuple[str, ...], Kind]]:
    for name, info in model.model_fields.items():
        path, plain = (*before, name), _plain(info.annotation)
        if any(isinstance(each, Indexed) or each is Indexed for each in info.metadata):
            yield path, _kind(f"{model.__name__}.{name}", plain)
        elif isinstance(plain, type) and issubclass(plain, BaseModel) and plain not in seen:
            yield from _walk(plain, path, seen | {plain})


def _plain(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    """Return a type without ``Annotated`` and ``None``."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in {Union, types.UnionType}:
        left = [each for each in get_args(annotation) if each is not type(None)]
        return _plain(left[0]) if len(left) == 1 else annotation
    return annotation


def _kind(where: str, annotation: Any) -> Kind:  # noqa: ANN401 - any annotation
    if get_origin(annotation) is Literal or annotation in {AwareDatetime, NaiveDatetime}:
        return "text"
    if isinstance(annotation, type) and issubclass(annotation, _TEXTS):
        return "text"
    if isinstance(annotation, type) and issubclass(annotation, _NUMBERS) and annotation is not bool:
        return "number"
    raise SchemaError(f"{where}: {annotation!r} cannot be Indexed; numbers, texts, ids and times can.")
