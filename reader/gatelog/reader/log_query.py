"""What a read of the log asks for, as a value: checked, in one form however it was written, and its fingerprint."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson

from gatelog.core.errors import InvalidInputError
from gatelog.reader.names import several, type_names
from gatelog.reader.where import Condition, Where, conditions, is_sendable
from gatelog.schemas.event import Event

NAMES_MAX: Final = 200  # categories, or types, of one query
POSITION_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which events of the log, and in which direction. None: no bound."""

    categories: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    correlation_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: tuple[Condition, ...] = ()
    backward: bool = False
    after: int | None = None  # a position, in the direction of reading: only events behind it

    @property
    def start(self) -> int:
        """The position behind which reading starts."""
        if self.after is None:
            return POSITION_MAX if self.backward else 0
        return self.after

    @property
    def is_empty(self) -> bool:
        """Whether nothing can fit, as with an empty list of types."""
        return self.types == () or self.categories == ()

    def fingerprint(self) -> bytes:
        """Return 16 bytes that other queries do not share; a limit is no part of a query."""
        parts: list[Any] = [
            self.categories,
            self.types,
            self.correlation_id,
            self.since,
            self.until,
            [(c.path, c.operator, c.kind, str(c.value)) for c in self.where],
            self.backward,
            self.after,
        ]
        return hashlib.sha256(orjson.dumps(parts)).digest()[:16]


def log_query(
    categories: Iterable[str] | None,
    types: Iterable[type[Event] | str] | None,
    correlation_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    where: Where | None,
    after: int | None,
    backward: bool,
) -> LogQuery:
    """Return the query that these arguments mean.

    Raises:
        InvalidInputError: one of them cannot be.
        SchemaError: a type is not a legal name.
    """
    since, until = _moment("since", since), _moment("until", until)
    if correlation_id is not None and not isinstance(correlation_id, UUID):
        raise InvalidInputError(f"correlation_id={correlation_id!r} is no UUID.")
    if after is not None and not (isinstance(after, int) and 0 <= after <= POSITION_MAX):
        raise InvalidInputError(f"after={after} is no position.")
    return LogQuery(
        _distinct("categories", None if categories is None else _texts(categories)),
        _distinct("types", None if types is None else type_names(types)),
        correlation_id,
        since,
        until,
        conditions(where),
        backward,
        after,
    )


def _moment(name: str, when: datetime | None) -> datetime | None:
    if when is None:
        return None
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidInputError(f"{name}={when!r} has no time zone; events are recorded at a moment of the world.")
    try:
        return when.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInputError(f"{name}={when!r} is no time in UTC: {error}.") from error


def _texts(categories: Iterable[str]) -> tuple[str, ...]:
    """What no stream's category can be is not found, and no error; what Postgres does not take is one."""
    names = several("categories", categories)
    if not all(isinstance(name, str) and is_sendable(name) for name in names):
        raise InvalidInputError(f"categories: {names!r} are not all texts, or hold a NUL or half a surrogate pair.")
    return names


def _distinct(what: str, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    found = tuple(sorted(set(names)))
    if len(found) > NAMES_MAX:
        raise InvalidInputError(f"A query of {len(found)} {what}; {NAMES_MAX} are allowed.")
    return found
