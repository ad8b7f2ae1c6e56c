"""Records that claim to be the relay's and are not: told by what the gate knows, before the index takes them.

The gate is asked once a batch. A true record is never ahead of it, because a tick is fixed in Postgres before Kafka
commits it, and its event waits in the outbox until the index holds it. So of many, a number tells that all is
well; only where it is too low is each record looked at.
"""

from collections.abc import Sequence
from typing import Final

import asyncpg

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.indexer.batches import Batch
from gatelog.indexer.rows import EVENT_ID, POSITION, STREAM, VERSION, Row

FEW_ROWS: Final = 50  # each is looked at: it costs no time that anybody would notice
_PACKAGE: Final = "gatelog.indexer"
_SNAPSHOT_TRIES: Final = 3  # a rotation of the outbox between a statement's beginning and its snapshot
_CLAIMS: Final = (POSITION, STREAM, VERSION, EVENT_ID)


class Gate:
    """The gate as a witness of what the relay has written."""

    def __init__(self, settings: Settings, gate: postgres.Pool) -> None:
        """Ask through ``gate``, a pool of the gate's database."""
        self._settings = settings
        self._pool = gate
        self._sql = queries(_PACKAGE, "forgeries.sql", settings.store)

    async def sift(self, batch: Batch, after: int = 0) -> None:
        """Set aside the records of a batch that the gate contradicts, of those past position ``after``."""
        asked = [place for place, row in enumerate(batch.rows) if row[POSITION] > after]  # type: ignore[operator] # a row of objects
        against = await self.against([batch.rows[place] for place in asked])
        if against:
            for nth, why in against.items():
                batch.keep(batch.messages[asked[nth]], why)
            batch.leave_out({asked[nth] for nth in against})

    async def against(self, rows: Sequence[Row]) -> dict[int, str]:
        """Return the places of rows that cannot be the relay's, and why."""
        if not rows:
            return {}
        with postgres.translated(self._settings.store, self._settings.dsn):
            (witness,) = await self._ask("witness", [row[EVENT_ID] for row in rows])
            upto = witness["upto"]
            if not witness["is_witness"]:
                return {}
            if witness["waiting"] == len(rows) > FEW_ROWS and all(row[POSITION] <= upto for row in rows):  # type: ignore[operator] # a row of objects
                return {}
            found = await self._ask("contradicted", *([row[c] for row in rows] for c in _CLAIMS), upto)
        return {
            row["place"]: f"{row['why']}: the gate has given positions up to {upto:,}, and knows no such event there"
            for row in found
        }

    async def _ask(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        for _ in range(_SNAPSHOT_TRIES - 1):
            try:
                return await self._pool.fetch(self._sql[name], *arguments)
            except asyncpg.SnapshotTooOldError:
                continue
        return await self._pool.fetch(self._sql[name], *arguments)
