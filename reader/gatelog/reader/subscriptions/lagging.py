"""How far subscriptions are behind, in positions and seconds; also where Kafka has forgotten what comes next."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

import asyncpg

from gatelog.core import kafka, postgres
from gatelog.core.domain import category_of_topic
from gatelog.core.errors import KafkaUnavailableError, SettingsError
from gatelog.core.partitioning import partition_of
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.marks import Mark
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe, committed
from gatelog.reader.subscriptions.starts import PACKAGE

LOOK_EVENTS_MAX: Final = 5_000  # of the index, for the first one of a partition


class Lag(NamedTuple):
    """Positions and seconds since the oldest event that is not handled; records in Kafka, markers too; parked."""

    positions: int
    seconds: float
    records: int
    parked: int


class _Event(NamedTuple):
    position: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class _Seen:
    """What Kafka says of one subscription."""

    partitions: Mapping[str, int]  # of each topic
    heads: Mapping[Place, int]  # the last position in each partition
    next: dict[Place, _Event]  # the first event that is not handled
    gone: Mapping[Place, int]  # where that may be gone: the position up to which all is handled
    records: int
    parked: int


async def lags(
    settings: Settings, connection: postgres.Connection, known: Sequence[asyncpg.Record]
) -> dict[str, Lag]:
    """Return how far each of the ``known`` subscriptions is behind; empty when Kafka does not answer.

    Raises:
        PostgresUnavailableError: no answer.
    """
    try:
        seen = await asyncio.to_thread(_look, settings, known)
    except (KafkaUnavailableError, SettingsError):
        return {}
    return {name: await _lag(settings, connection, each) for name, each in seen.items()}


def _look(settings: Settings, known: Sequence[asyncpg.Record]) -> dict[str, _Seen]:
    """Blocks."""
    properties = settings.kafka_properties
    client = kafka.admin(properties)
    with Probe(settings) as probe:
        places = probe.places(None)
        heads = {place: record.position for place, record in probe.last(places).items()}
        bounds = {place: probe.bounds(place) for place in places}
        found = {}
        for row in known:
            mine = [
                p for p in (places if row["categories"] is None else probe.places(row["categories"])) if p in bounds
            ]
            begun = Mark(0, row["start_position"] if row["start_time"] is None else None)
            marks = dict.fromkeys(mine, begun) | committed(
                client, properties, f"gatelog.{settings.store}.sub.{row['name']}", mine
            )
            with ParkedTopic(settings, row["name"]) as topic:
                parked = len(topic.all())
            found[row["name"]] = _seen(probe, heads, bounds, marks, parked)
        return found


def _seen(
    probe: Probe,
    heads: Mapping[Place, int],
    bounds: Mapping[Place, tuple[int, int]],
    marks: Mapping[Place, Mark],
    parked: int,
) -> _Seen:
    offsets = {place: max(mark.offset, bounds[place][0]) for place, mark in marks.items()}
    behind = {place: offset for place, offset in offsets.items() if offset < bounds[place][1]}
    first = {place: _Event(record.position, record.recorded_at) for place, (_, record) in probe.first(behind).items()}
    return _Seen(
        Counter(topic for topic, _ in bounds),
        {place: heads[place] for place in marks if place in heads},
        first,
        {p: m.position for p, m in marks.items() if m.offset < bounds[p][0] and m.position is not None},
        sum(bounds[place][1] - offset for place, offset in behind.items()),
        parked,
    )


async def _lag(settings: Settings, connection: postgres.Connection, seen: _Seen) -> Lag:
    """Look into the index for what is gone from Kafka, where it is beside the gate."""
    heads, due = list(seen.heads.values()), dict(seen.next)
    if not settings.index_dsns:
        sql = queries(PACKAGE, "subscriptions.sql", settings.store)
        for place, position in seen.gone.items():
            with postgres.translated(settings.store, settings.dsn):
                category = category_of_topic(settings.store, place[0])
                rows = await connection.fetch(sql["indexed_after"], category, position, LOOK_EVENTS_MAX)
            if (event := _first_of(rows, place, seen.partitions)) is not None:
                due[place] = event
                heads.append(rows[0]["highest"])
    if not due:  # markers only
        return Lag(0, 0.0, 0, seen.parked)
    oldest, waiting = min(event.recorded_at for event in due.values()), [event.position for event in due.values()]
    positions = max(heads + waiting) - min(waiting) + 1  # the first record of a partition may have come meanwhile
    return Lag(positions, max(0.0, (datetime.now(UTC) - oldest).total_seconds()), seen.records, seen.parked)


def _first_of(rows: Sequence[asyncpg.Record], place: Place, partitions: Mapping[str, int]) -> _Event | None:
    """Return the first event of a partition; where it is not among so many, the last one that was looked at."""
    for row in rows:
        if partition_of(row["stream"], partitions[place[0]]) == place[1]:
            return _Event(row["position"], row["recorded_at"])
    if len(rows) < LOOK_EVENTS_MAX:
        return None
    return _Event(rows[-1]["position"], rows[-1]["recorded_at"])
