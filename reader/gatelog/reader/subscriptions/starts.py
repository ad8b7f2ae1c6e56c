"""Where a subscription begins: said by the program, decided once by the first member, kept in Postgres."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from gatelog.core import postgres
from gatelog.core.errors import InvalidInputError
from gatelog.core.identity import Identified
from gatelog.core.sql import queries
from gatelog.reader.log_query import POSITION_MAX
from gatelog.reader.subscriptions.marks import Mark
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe, committed

PACKAGE: Final = "gatelog.reader.subscriptions"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)  # Kafka's records have no earlier time; -1 means the end to it
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)  # to Postgres the last moment of that year is infinity


class StartKind(Enum):
    """The ways to say it."""

    BEGINNING = "beginning"
    NOW = "now"
    POSITION = "position"
    TIME = "time"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription begins when it runs for the first time; later it goes on where it was."""

    kind: StartKind
    position: int = 0
    at: datetime | None = None
    checkpoint: str | None = None

    @classmethod
    def beginning(cls) -> "Start":
        """The first event of the log."""
        return cls(StartKind.BEGINNING)

    @classmethod
    def now(cls) -> "Start":
        """What is published from now on; "now" is when the first member runs for the first time."""
        return cls(StartKind.NOW)

    @classmethod
    def after(cls, position: int) -> "Start":
        """The first event after a position.

        Raises:
            InvalidInputError: the position is negative.
        """
        if not (isinstance(position, int) and 0 <= position <= POSITION_MAX):
            raise InvalidInputError(f"Start after position {position!r}: positions are whole numbers from 1 on.")
        return cls(StartKind.POSITION, position=position)

    @classmethod
    def at_time(cls, at: datetime) -> "Start":
        """In each partition, the first event of this time or later, and all that follow it there.

        Of the events that the subscription takes: those of its categories, and of the types that it handles.

        Raises:
            InvalidInputError: the time has no time zone.
        """
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise InvalidInputError(f"Start at {at!r}: it takes a time with a time zone.")
        return cls(StartKind.TIME, at=min(max(at, _EPOCH), _LATEST))

    @classmethod
    def like(cls, subscription: str) -> "Start":
        """Where another subscription stands when this one runs for the first time."""
        return cls(StartKind.CHECKPOINT, checkpoint=subscription)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a subscription began, as it was decided."""

    position: int
    at: datetime | None
    marks: dict[Place, Mark]

    async def marks_of(self, settings: Identified, places: Sequence[Place]) -> dict[Place, Mark]:
        """Return where to begin partitions that the group has committed nothing of.

        Where the first record may be gone from Kafka, the offset is 0.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        found = {place: self.marks[place] for place in places if place in self.marks}
        rest = [place for place in places if place not in found]
        if not rest:
            return found
        offsets = await asyncio.to_thread(self._look, settings, rest)
        waits = self.at is not None
        return found | {place: Mark(offsets.get(place, 0), self.handled, waits=waits) for place in rest}

    @property
    def handled(self) -> int | None:
        """The position up to which everything counts as handled; None when a time says where to begin."""
        return self.position if self.at is None else None

    def _look(self, settings: Identified, places: Sequence[Place]) -> dict[Place, int]:
        with Probe(settings) as probe:
            return probe.after_position(places, self.position) if self.at is None else probe.at_time(places, self.at)


class Starts:
    """Decides and remembers where subscriptions begin."""

    def __init__(self, settings: Identified, pool: postgres.Pool) -> None:
        """Work on the store's tables through ``pool``."""
        self._settings = settings
        self._pool = pool
        self._sql = queries(PACKAGE, "subscriptions.sql", settings.store)

    async def origin(self, name: str, start: Start, categories: Iterable[str] | None, group_of: str) -> Origin:
        """Return where ``name`` began, deciding it if it never ran. ``group_of``: its group, ``{}`` for the name.

        Raises:
            InvalidInputError: the subscription to start like has never run.
            PostgresUnavailableError, KafkaUnavailableError: no answer.
        """
        found = await self._known(name)
        if found is None:
            wanted = None if categories is None else list(categories)
            origin = await self._decide(start, wanted, group_of)
            marks = json.dumps(_nested(origin.marks)) if origin.marks else None
            await self._execute("remember", name, wanted, origin.position, origin.at, marks)
            found = await self._known(name)
        assert found is not None
        return found

    async def _decide(self, start: Start, categories: list[str] | None, group_of: str) -> Origin:
        if start.kind is StartKind.NOW:
            return Origin(await self._newest(categories), None, {})
        if start.kind is StartKind.CHECKPOINT:
            assert start.checkpoint is not None
            other = await self._known(start.checkpoint)
            if other is None:
                raise InvalidInputError(f"Start like {start.checkpoint!r}: no subscription of that name has run.")
            group = group_of.format(start.checkpoint)
            marks = await asyncio.to_thread(_committed, self._settings, group, categories)
            own = {place: mark._replace(settled=None) for place, mark in marks.items()}  # parked events are its own
            return Origin(other.position, other.at, other.marks | own)
        return Origin(start.position, start.at, {})

    async def _newest(self, categories: list[str] | None) -> int:
        """Return the last position that was published: Kafka may have no record of it any more."""
        in_kafka = await asyncio.to_thread(_newest, self._settings, categories)
        with postgres.translated(self._settings.store, self._settings.dsn):
            return max(in_kafka, int(await self._pool.fetchval(self._sql["published"])))

    async def _known(self, name: str) -> Origin | None:
        with postgres.translated(self._settings.store, self._settings.dsn):
            row = await self._pool.fetchrow(self._sql["known"], name)
        if row is None:
            return None
        nested = json.loads(row["start_offsets"] or "{}")
        marks = {(topic, int(p)): Mark(*mark) for topic, marks in nested.items() for p, mark in marks.items()}
        return Origin(row["start_position"], row["start_time"], marks)

    async def _execute(self, statement: str, *arguments: object) -> None:
        with postgres.translated(self._settings.store, self._settings.dsn):
            await self._pool.execute(self._sql[statement], *arguments)


def _nested(marks: dict[Place, Mark]) -> dict[str, dict[str, Mark]]:
    nested: dict[str, dict[str, Mark]] = {}
    for (topic, partition), mark in marks.items():
        nested.setdefault(topic, {})[str(partition)] = mark
    return nested


def _newest(settings: Identified, categories: list[str] | None) -> int:
    with Probe(settings) as probe:
        records = probe.last(probe.places(categories)).values()
        return max((record.position for record in records), default=0)


def _committed(settings: Identified, group: str, categories: list[str] | None) -> dict[Place, Mark]:
    with Probe(settings) as probe:
        return committed(settings.kafka_properties, group, probe.places(categories))
