"""Where subscriptions stand: how far behind, who runs, what is parked. Asked from outside, even of dead ones."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.lagging import lags
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
    behind = await lags(settings, connection, known) if known else {}
    return [
        Standing(
            row["name"],
            None if row["categories"] is None else tuple(row["categories"]),
            tuple(_member(each) for each in members if each["subscription"] == row["name"]),
            *behind.get(row["name"], (None, None, None, None)),
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
