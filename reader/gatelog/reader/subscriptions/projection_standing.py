"""Where projections stand: how far each build has come, and is behind. Asked from outside, even of dead ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gatelog.core import identity, postgres
from gatelog.core.errors import StoreNotInitialisedError
from gatelog.core.identity import Identified
from gatelog.core.sql import queries
from gatelog.reader.subscriptions.checkpoints import PACKAGE, SQL_FILE
from gatelog.reader.subscriptions.lagging import Lag, lags
from gatelog.reader.subscriptions.marks import Mark


@dataclass(frozen=True, slots=True)
class ProjectionStanding:
    """One build of a projection: ``live``, ``building`` beside it, or ``retired``.

    ``events``: how many it holds; ``position``: the highest of them. ``is_active``: a member has its partitions. The
    lags are None when Kafka does not answer, and of a build that is retired, or has not begun. ``done``, from 0 to 1,
    and ``seconds_left`` are of one that is being built: by how fast it was on average since it was begun.
    """

    projection: str
    build: int
    version: int
    state: str
    since: datetime
    events: int
    position: int
    moved_at: datetime | None
    is_active: bool
    lag_positions: int | None
    lag_s: float | None
    lag_records: int | None
    done: float | None
    seconds_left: float | None


async def projection_standings(
    settings: Identified, connection: postgres.Connection, dsn: str | None = None
) -> list[ProjectionStanding]:
    """Return where every build of a store's projections stands, by name and number.

    ``connection``: to the store. ``dsn``: the database of the read models, where it is not the store's own.

    Raises:
        ForeignStoreError: that database has checkpoints of another store of the same name.
        PostgresUnavailableError: no answer.
    """
    if dsn is None:
        builds, marks = await _known(settings, connection, settings.dsn)
    else:
        other = await postgres.connect(dsn, settings.store, "gatelog projections")
        try:
            builds, marks = await _known(settings, other, dsn)
        finally:
            await other.close()
    if not builds:
        return []
    with postgres.translated(settings.store, settings.dsn):
        head = await connection.fetchval(queries(PACKAGE, SQL_FILE, settings.store)["head"])
    behind = await lags(settings, connection, lambda _probe, _bounds: marks)
    return [_standing(row, behind.get(_key(row)) if row["partitions"] else None, head) for row in builds]


async def _known(
    settings: Identified, connection: postgres.Connection, dsn: str
) -> tuple[list[Any], Mapping[str, dict[tuple[str, int], Mark]]]:
    """Return the builds, and where those stand that somebody may read."""
    sql = queries(PACKAGE, SQL_FILE, settings.store)
    try:
        with postgres.translated(settings.store, dsn):
            await identity.refuse_other(connection, settings.store, settings.store_id, dsn)
            builds = await connection.fetch(sql["projections"], None)
            rows = await connection.fetch(sql["standing"])
    except StoreNotInitialisedError:
        return [], {}  # nothing was ever prepared there
    marks: dict[str, dict[tuple[str, int], Mark]] = {_key(row): {} for row in builds if row["state"] != "retired"}
    for row in rows:
        marks[_key(row)][row["topic"], row["partition"]] = Mark(row["next_offset"], row["position"])
    return builds, marks


def _key(row: Any) -> str:  # noqa: ANN401 - a row
    return f"{row['projection']} {row['build']}"


def _standing(row: Any, lag: Lag | None, head: int) -> ProjectionStanding:  # noqa: ANN401 - a row
    done = seconds_left = None
    if row["state"] == "building" and lag is not None:
        done = max(0.0, 1 - lag.positions / head) if head else 1.0
        elapsed_s = (datetime.now(UTC) - row["since"]).total_seconds()
        seconds_left = elapsed_s * (1 - done) / done if done and row["events"] else None
    return ProjectionStanding(
        row["projection"],
        row["build"],
        row["version"],
        row["state"],
        row["since"],
        row["events"],
        row["position"],
        row["moved_at"],
        row["is_active"],
        None if lag is None else lag.positions,
        None if lag is None else lag.seconds,
        None if lag is None else lag.records,
        done,
        seconds_left,
    )
