"""How far consumers are behind, in positions and seconds; also where Kafka has forgotten what comes next."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from gatelog.core import postgres
from gatelog.core.domain import category_of_topic
from gatelog.core.errors import KafkaUnavailableError, SettingsError
from gatelog.core.identity import ForeignStoreError, Identified
from gatelog.core.partitioning import partition_of
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.marks import Marks
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe

LOOK_EVENTS_MAX: Final = 5_000  # of the index, for the first one of a partition

Bounds: TypeAlias = Mapping[Place, tuple[int, int]]
MarksOf: TypeAlias = Callable[[Probe, Bounds], Mapping[str, Marks]]  # by the names of consumers; called in a thread


class Lag(NamedTuple):
    """Positions, and seconds, since the oldest event that is not handled; records in Kafka, markers too."""

    positions: int
    seconds: float
    records: int


class _Event(NamedTuple):
    position: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class _Seen:
    """What Kafka says of one consumer."""

    partitions: Mapping[str, int]  # of each topic
    heads: Mapping[Place, int]  # the last position in each partition
    next: Mapping[Place, _Event]  # the first event that is not handled
    gone: Mapping[Place, int]  # where that may be gone: the position up to which all is handled
    records: int


async def lags(settings: Identified, connection: postgres.Connection, marks_of: MarksOf) -> dict[str, Lag]:
    """Return how far consumers are behind, by their names; empty when Kafka does not tell.

    ``marks_of`` says where they stand, among the partitions that there are. ``connection``: to the store.

    Raises:
        PostgresUnavailableError: no answer.
    """
    try:
        seen = await asyncio.to_thread(_look, settings, marks_of)
    except (KafkaUnavailableError, SettingsError, ForeignStoreError):
        return {}
    return {name: await _lag(settings, connection, each) for name, each in seen.items()}


def _look(settings: Identified, marks_of: MarksOf) -> dict[str, _Seen]:
    """Blocks."""
    with Probe(settings) as probe:
        places = probe.places(None)
        if probe.leaderless():  # nobody would answer, and `gatelog status` is not to wait for that
            raise KafkaUnavailableError("Some partitions have no leader.")
        heads = {place: record.position for place, record in probe.last(places).items()}
        bounds = probe.bounds(places)
        return {name: _seen(probe, heads, bounds, marks) for name, marks in marks_of(probe, bounds).items()}


def _seen(probe: Probe, heads: Mapping[Place, int], bounds: Bounds, marks: Marks) -> _Seen:
    marks = {place: mark for place, mark in marks.items() if place in bounds}
    offsets = {place: max(mark.offset, bounds[place][0]) for place, mark in marks.items()}
    behind = {place: offset for place, offset in offsets.items() if offset < bounds[place][1]}
    due, gone = {}, {p: m.position for p, m in marks.items() if m.offset < bounds[p][0] and m.position is not None}
    for place, (_, record, _) in probe.first(behind).items():
        position = marks[place].position
        if position is not None and record.position <= position:
            gone[place] = position  # it is handled: the index told it, and tells what comes next
        else:
            due[place] = _Event(record.position, record.recorded_at)
    records = sum(bounds[place][1] - offset for place, offset in behind.items())
    topics = Counter(topic for topic, _ in bounds)
    return _Seen(topics, {place: heads[place] for place in marks if place in heads}, due, gone, records)


async def _lag(settings: Identified, connection: postgres.Connection, seen: _Seen) -> Lag:
    """Look into the index for what is gone from Kafka, where it is beside the gate."""
    heads, due = list(seen.heads.values()), dict(seen.next)
    if not settings.index_dsns:
        sql = queries("gatelog.reader.subscriptions", "subscriptions.sql", settings.store)
        for place, position in seen.gone.items():
            category = category_of_topic(settings.store, place[0])
            with postgres.translated(settings.store, settings.dsn):
                rows = await connection.fetch(sql["indexed_after"], category, position, LOOK_EVENTS_MAX)
            if (event := _first_of(rows, place, seen.partitions)) is not None:
                due[place] = event
                heads.append(rows[0]["highest"])
    if not due:  # markers only
        return Lag(0, 0.0, 0)
    oldest, waiting = min(event.recorded_at for event in due.values()), [event.position for event in due.values()]
    positions = max(heads + waiting) - min(waiting) + 1  # the first record of a partition may have come meanwhile
    return Lag(positions, max(0.0, (datetime.now(UTC) - oldest).total_seconds()), seen.records)


def _first_of(rows: Sequence[asyncpg.Record], place: Place, partitions: Mapping[str, int]) -> _Event | None:
    """Return the first event of a partition; where it is not among so many, the last one that was looked at."""
    for row in rows:
        if partition_of(row["stream"], partitions[place[0]]) == place[1]:
            return _Event(row["position"], row["recorded_at"])
    if len(rows) < LOOK_EVENTS_MAX:
        return None
    return _Event(rows[-1]["position"], rows[-1]["recorded_at"])
