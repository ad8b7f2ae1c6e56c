"""Where gate, outbox and relay stand."""

from dataclasses import dataclass

from gatelog.core import postgres
from gatelog.core.sql import queries


@dataclass(frozen=True)
class ProducerStatus:
    """A look at the producer's tables. ``outbox_events`` counts up to 100,001, then it is an estimate."""

    relay_is_active: bool
    epoch: int
    tick: int
    position: int
    pending_events: int
    outbox_events: int
    outbox_oldest_s: float | None
    awaits: str | None  # a table was lost: the command that has to be run before anything is appended or read


async def status(connection: postgres.Connection, store: str) -> ProducerStatus:
    """Return where gate, outbox and relay of a store stand now."""
    row = await connection.fetchrow(queries("gatelog.producer", "status.sql", store)["status"])
    assert row is not None
    exact = row["outbox_events"] <= 100_000
    return ProducerStatus(
        row["relay_is_active"],
        row["epoch"],
        row["tick"],
        row["position"],
        row["pending_events"],
        row["outbox_events"] if exact else row["outbox_events_about"],
        row["oldest_s"],
        row["awaits"],
    )
