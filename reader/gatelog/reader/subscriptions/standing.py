"""Where subscriptions stand: how far behind, who runs, what is parked. Asked from outside, even of dead ones."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from gatelog.core import postgres
from gatelog.core.identity import Identified
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.lagging import Bounds, Lag, lags
from gatelog.reader.subscriptions.marks import Mark, Marks
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
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


async def standings(settings: Identified, connection: postgres.Connection) -> list[Standing]:
    """Return where every subscription of the store stands, by name.

    Raises:
        PostgresUnavailableError: no answer.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
    """
    sql = queries(PACKAGE, "subscriptions.sql", settings.store)
    with postgres.translated(settings.store, settings.dsn):
        known = await connection.fetch(sql["all"])
        members = await connection.fetch(sql["members"])
    behind, parked = await _behind(settings, connection, known) if known else ({}, {})
    return [_standing(row, members, behind.get(row["name"]), parked.get(row["name"])) for row in known]


def _standing(
    row: asyncpg.Record, members: Sequence[asyncpg.Record], lag: Lag | None, parked: int | None
) -> Standing:
    return Standing(
        row["name"],
        None if row["categories"] is None else tuple(row["categories"]),
        tuple(_member(each) for each in members if each["subscription"] == row["name"]),
        None if lag is None else lag.positions,
        None if lag is None else lag.seconds,
        None if lag is None else lag.records,
        parked,
    )


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


async def _behind(
    settings: Identified, connection: postgres.Connection, known: Sequence[asyncpg.Record]
) -> tuple[dict[str, Lag], dict[str, int]]:
    """Return lags, and how many events are parked; nothing of what Kafka does not tell."""
    parked: dict[str, int] = {}

    def marks_of(probe: Probe, bounds: Bounds) -> dict[str, Marks]:
        found: dict[str, Marks] = {}
        for row in known:
            mine = list(bounds if row["categories"] is None else probe.places(row["categories"]))
            begun = Mark(0, row["start_position"] if row["start_time"] is None else None)
            group = settings.named("sub", row["name"])
            found[row["name"]] = dict.fromkeys(mine, begun) | committed(settings.kafka_properties, group, mine)
            with ParkedTopic(settings, row["name"]) as topic:
                parked[row["name"]] = len(topic.all())
        return found

    return await lags(settings, connection, marks_of), parked
