"""Where subscriptions stand: how far behind, who runs, what is parked. Asked from outside, even of dead ones."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from gatelog.core import kafka, postgres
from gatelog.core.errors import KafkaUnavailableError, SettingsError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe, committed
from gatelog.reader.subscriptions.starts import PACKAGE

SILENT_S: Final = 10.0  # without a heartbeat
STALLED_S: Final = 60.0  # without an event handled, or a poll, while there are some


@dataclass(frozen=True, slots=True)
class MemberStanding:
    """One member, as it said itself ``beat_s_ago`` seconds ago."""

    host: str
    pid: int
    started_at: datetime
    beat_s_ago: float
    polled_s_ago: float
    progressed_s_ago: float
    facts: dict[str, Any]

    @property
    def trouble(self) -> str | None:
        """What is wrong with it, if anything."""
        if self.beat_s_ago > SILENT_S:
            return f"silent for {self.beat_s_ago:.0f} s"
        if self.polled_s_ago > STALLED_S:
            return f"does not poll for {self.polled_s_ago:.0f} s"
        if self.progressed_s_ago > STALLED_S:
            return f"no event handled for {self.progressed_s_ago:.0f} s"
        return None


@dataclass(frozen=True, slots=True)
class Standing:
    """One subscription. The lags are None when Kafka does not answer; ``lag_records`` counts markers too."""

    name: str
    categories: tuple[str, ...] | None
    members: tuple[MemberStanding, ...]
    lag_positions: int | None
    lag_s: float | None
    lag_records: int | None
    parked: int | None

    @property
    def is_active(self) -> bool:
        """Whether a member was heard of in the last seconds."""
        return any(member.beat_s_ago <= SILENT_S for member in self.members)


async def standings(settings: Settings, connection: postgres.Connection) -> list[Standing]:
    """Return where every subscription of the store stands, by name.

    Raises:
        PostgresUnavailableError: no answer.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
    """
    sql = queries(PACKAGE, "subscriptions.sql", settings.store)
    with postgres.translated(settings.store, settings.dsn):
        known = await connection.fetch(sql["all"])
        members = await connection.fetch(sql["members"])
    lags = await asyncio.to_thread(_lags, settings, known) if known else {}
    return [
        Standing(
            row["name"],
            None if row["categories"] is None else tuple(row["categories"]),
            tuple(_member(each) for each in members if each["subscription"] == row["name"]),
            *lags.get(row["name"], (None, None, None, None)),
        )
        for row in known
    ]


def _member(row: asyncpg.Record) -> MemberStanding:
    return MemberStanding(
        row["host"],
        row["pid"],
        row["started_at"],
        row["beat_s_ago"],
        row["polled_s_ago"],
        row["progressed_s_ago"],
        json.loads(row["facts"]),
    )


_Lag = tuple[int, float, int, int]


def _lags(settings: Settings, known: Sequence[asyncpg.Record]) -> dict[str, _Lag]:
    """Blocks. Empty when Kafka does not answer or is not configured: the rest is told all the same."""
    try:
        properties = settings.kafka_properties
        client = kafka.admin(properties)
        with Probe(settings) as probe:
            places = probe.places(None)
            heads = {place: record.position for place, record in probe.last(places).items()}
            bounds = {place: probe.bounds(place) for place in places}
            found = {}
            for row in known:
                mine = places if row["categories"] is None else probe.places(row["categories"])
                group = f"gatelog.{settings.store}.sub.{row['name']}"
                offsets = {p: bounds[p][0] for p in mine if p in bounds} | committed(client, properties, group, mine)
                with ParkedTopic(settings, row["name"]) as topic:
                    parked = len(topic.all())
                found[row["name"]] = (*_lag(probe, heads, bounds, offsets), parked)
            return found
    except (KafkaUnavailableError, SettingsError):
        return {}


def _lag(
    probe: Probe, heads: dict[Place, int], bounds: dict[Place, tuple[int, int]], offsets: dict[Place, int]
) -> tuple[int, float, int]:
    behind = {place: offset for place, offset in offsets.items() if place in bounds and offset < bounds[place][1]}
    first = [record for _, record in probe.first(behind).values()]
    records = sum(bounds[place][1] - offset for place, offset in behind.items())
    if not first:  # markers only
        return 0, 0.0, 0
    head = max([heads[place] for place in offsets if place in heads] + [record.position for record in first])
    oldest = min(record.recorded_at for record in first)
    return (
        head - min(record.position for record in first) + 1,
        max(0.0, (datetime.now(UTC) - oldest).total_seconds()),
        records,
    )
