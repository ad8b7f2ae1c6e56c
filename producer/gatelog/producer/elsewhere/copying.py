"""The index as a repair of the gate sees it: under the name ``indexed``, in the session of the gate's connection.

In the gate's own database that is a view. Of an index in other databases, what the gate may not know is copied: all
from where it stands on, and what has something in common with its outbox, or with records that Kafka holds.
"""

from collections.abc import Sequence
from typing import Final

import asyncpg

from gatelog.core.asking import End
from gatelog.core.shards.databases import Databases
from gatelog.core.sql import queries
from gatelog.core.tail import Ends, RecordPlace

PAGE_ROWS: Final = 10_000


class IndexCopy:
    """What the gate's session sees of the index."""

    def __init__(self, databases: Databases) -> None:
        """Nothing is made yet."""
        self._databases = databases
        self._sql = queries("gatelog.producer.elsewhere", "copying.sql", databases.settings.store)

    async def make(self) -> None:
        """Make ``indexed``; in other databases, nothing is in it yet."""
        await self._databases.gate.execute(self._sql["table" if self._databases.is_apart else "view"])

    async def state(self) -> tuple[int, int]:
        """Return up to where the index as a whole misses nothing, and its highest position."""
        rows = [row for (row,) in await self._databases.ask_all(self._sql["state"])]
        return min(row["frontier"] for row in rows), max(row["highest"] for row in rows)

    async def offsets(self) -> list[Ends]:
        """Return how far each shard has read each partition."""
        found: list[Ends] = []
        for rows in await self._databases.ask_all(self._sql["offsets"]):
            found.append({})
            for row in rows:
                offsets = found[-1].setdefault(row["topic"], [])
                offsets += [End(0, None)] * (row["partition"] + 1 - len(offsets))
                offsets[row["partition"]] = End(row["next_offset"], row["leader_epoch"], row["topic_id"])
        return found

    async def kept(self) -> tuple[set[RecordPlace], set[RecordPlace]]:
        """Return the records that indexers have set aside and nobody has settled, and those that were dismissed."""
        found = [row for rows in await self._databases.ask_all(self._sql["kept"]) for row in rows]
        dismissed = {_place(row) for row in found if row["is_dismissed"]}
        return {_place(row) for row in found} - dismissed, dismissed

    async def copy(self, position: int) -> None:
        """Copy all events from ``position`` on, and what concerns the outbox. After ``offsets`` were asked.

        What the indexers add meanwhile is what Kafka holds past these offsets: whoever reads that misses nothing.
        """
        if not self._databases.is_apart:
            return
        for shard in range(len(self._databases.shards)):
            since = position
            while rows := await self._databases.ask(shard, self._sql["since"], since, PAGE_ROWS):
                await self._put(rows)
                since = rows[-1]["position"] + 1
        gate, after = self._databases.gate, None
        while rows := await gate.fetch(self._sql["waiting"], after, PAGE_ROWS):
            await self.copy_like([], [row["event_id"] for row in rows], [], [])
            after = rows[-1]["event_id"]
        stream = ""
        while rows := await gate.fetch(self._sql["waiting_streams"], stream, PAGE_ROWS):
            await self._copy_from_all("ends", [row["stream"] for row in rows], [row["first"] for row in rows])
            stream = rows[-1]["stream"]
        await gate.execute("ANALYZE indexed")

    async def copy_like(
        self, positions: Sequence[int], ids: Sequence[object], streams: Sequence[str], versions: Sequence[int]
    ) -> None:
        """Copy events that have one of these positions, ids, or versions of streams."""
        if self._databases.is_apart:
            await self._copy_from_all("like", positions, ids, streams, versions)

    async def remember(self) -> None:
        """Let the gate know the ids of what is in ``indexed``, where it keeps them itself."""
        if self._databases.is_apart:
            await self._databases.gate.execute(self._sql["remember"])

    async def _copy_from_all(self, name: str, *arguments: object) -> None:
        for rows in await self._databases.ask_all(self._sql[name], *arguments):
            await self._put(rows)

    async def _put(self, rows: Sequence[asyncpg.Record]) -> None:
        await self._databases.gate.execute(self._sql["put"], *([row[column] for row in rows] for column in range(5)))


def _place(row: asyncpg.Record) -> RecordPlace:
    return row["topic"], row["partition"], row["offset"]
