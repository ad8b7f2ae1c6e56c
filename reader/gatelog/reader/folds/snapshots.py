"""Where snapshots are kept. Whatever goes wrong with one, a fold goes on without it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from gatelog.core import logs, postgres
from gatelog.core.sql import queries
from gatelog.core.telling import told

BYTES_MAX: Final = 16 * 1024 * 1024  # of a state as JSON: a larger one is not kept
STALE_AFTER_DAYS: Final = 30

_log = logs.logger("reader")


class SnapshotKey(NamedTuple):
    """Whose snapshot it is."""

    stream: str
    state_type: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state as JSON, the version that it includes, and how to tell whether that history is still the same."""

    version: int
    event_id: UUID
    recorded_at: datetime  # the latest of the events included
    state: str


class Snapshots(Protocol):
    """Keeps the latest snapshot of each key."""

    async def load(self, key: SnapshotKey) -> Snapshot | None:
        """Return what is kept, if it can be had."""
        ...

    async def save(self, key: SnapshotKey, snapshot: Snapshot, *, replace: bool) -> None:
        """Keep a snapshot instead of an older one; ``replace``: instead of any."""
        ...


class PostgresSnapshots:
    """Snapshots in the table of the store."""

    def __init__(self, store: str, pool: postgres.Pool) -> None:
        """Work through ``pool``."""
        self._pool = pool
        self._sql = queries("gatelog.reader.folds", "snapshots.sql", store)

    async def load(self, key: SnapshotKey) -> Snapshot | None:
        """See ``Snapshots``."""
        try:
            row = await self._pool.fetchrow(self._sql["load"], *key)
        except postgres.FAILED as error:
            _log.warning("snapshot.not_loaded", stream=key.stream, error=told(error))
            return None
        return None if row is None else Snapshot(*row)

    async def save(self, key: SnapshotKey, snapshot: Snapshot, *, replace: bool) -> None:
        """See ``Snapshots``."""
        found = (snapshot.version, snapshot.event_id, snapshot.recorded_at, snapshot.state)
        try:
            await self._pool.execute(self._sql["save"], *key, *found, replace)
            await self._pool.execute(self._sql["clear"], *key, STALE_AFTER_DAYS)
        except postgres.FAILED as error:  # a role that may only read, a server that takes no writes
            _log.warning("snapshot.not_saved", stream=key.stream, error=told(error))
