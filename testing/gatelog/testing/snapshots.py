"""Snapshots in memory."""

from gatelog.reader.folds.snapshots import Snapshot, SnapshotKey


class MemorySnapshots:
    """See ``gatelog.reader.folds.snapshots.Snapshots``."""

    def __init__(self) -> None:
        """Start empty."""
        self.kept: dict[SnapshotKey, Snapshot] = {}

    async def load(self, key: SnapshotKey) -> Snapshot | None:
        """See ``Snapshots``."""
        return self.kept.get(key)

    async def save(self, key: SnapshotKey, snapshot: Snapshot, *, replace: bool) -> None:
        """See ``Snapshots``."""
        there = self.kept.get(key)
        if there is None or replace or there.version < snapshot.version:
            self.kept[key] = snapshot
