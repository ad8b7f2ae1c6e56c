"""In whatever order a repair, appends, an indexer and rotation act: Postgres follows Kafka, and nothing is lost."""

import random
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
from support.interleaved import World, world
from support.interleaving import Stepped, Work, random_orders, rest

from gatelog.core import asking
from gatelog.core.errors import ReconcileRefusedError
from gatelog.core.identity import Identified
from gatelog.core.shards.databases import Databases
from gatelog.producer import ANY
from gatelog.producer import reconcile as reconciling
from gatelog.producer.outbox import LOCK_TIMEOUT_MS
from gatelog.producer.reconcile import Reconciliation
from gatelog.schemas.envelope import Record

if TYPE_CHECKING:  # generic in the type stubs only
    from support.interleaved import Connection

LOST = 2  # events that Kafka holds and a restored Postgres does not


class FromLog(Reconciliation):
    """A repair that reads the world's log instead of Kafka."""

    def __init__(self, world: World, connection: "Connection") -> None:
        super().__init__(world.settings, Databases(world.settings, connection, [connection]))
        self._world = world

    async def read(self) -> None:
        """Hold all of the log against Postgres."""
        records = self._world.log.records
        ends = {self._world.topic: [asking.End(len(records), None)]}
        self._seen = reconciling._Look(ends, [], read=len(records))
        await self._connection.execute("DISCARD TEMP")
        await self._index.make()
        await self._connection.execute(self._sql["make_found"])
        await self._connection.execute(self._sql["make_unread"])
        rows = [reconciling._row(record, nth) for nth, record in enumerate(records)]
        await self._connection.copy_records_to_table("found", columns=reconciling._COLUMNS, records=rows)
        await self._connection.execute(self._sql["tidy_found"])


class Repair:
    """Postgres was restored from before Kafka's records, and programs append to it."""

    def __init__(self, world: World, connection: "Connection") -> None:
        self._world = world
        self._connection = connection

    async def begin(self) -> Mapping[str, Work]:
        world = self._world
        await world.reset()
        for position in range(1, LOST + 1):
            record = Record(
                "Memo-1", position, position, uuid4(), "Noted", datetime.now(UTC), None, None, None, None, 1, b"\x02x"
            )
            world.log.records.append(record)
            world.lost[record.id] = record.stream
        return {
            "repair": self._repair,
            "writer": lambda: world.append_within("writer", ("Note-1", 2, ANY)),
            "other": lambda: world.append("other", ("Note-2", 1, ANY)),
            "keeper": lambda: world.rotate("keeper", 2),
            "indexer": lambda: world.index("indexer", 1),
        }

    async def _repair(self) -> None:
        while True:
            rest()
            made = FromLog(self._world, self._connection)
            await made.read()
            try:
                await made.apply(None)
            except ReconcileRefusedError:
                continue  # it waited for a lock for too long, and says: again
            return

    async def judge(self) -> None:
        await self._world.judge()


@pytest.fixture
async def repair(settings: Identified) -> AsyncIterator[tuple[World, Repair]]:
    small = settings.model_copy(
        update={"outbox_segment_events": 1, "tick_events_max": 1, "outbox_snapshot_age_max_s": 0.0}
    )
    connection = await asyncpg.connect(small.dsn, connection_class=Stepped)
    columns = "(subject, version, definition, sha256)"
    await connection.execute(f"INSERT INTO {small.store}.schemas {columns} VALUES ('Noted', 1, '{{}}', '')")
    async with world(small, "writer", "other") as made:
        # As outside: it gives way where a repair and it would wait for each other.
        await made.connections["keeper"].execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        yield made, Repair(made, connection)
    connection.terminate()


async def test_random_orders(repair: tuple[World, Repair], chance: random.Random, long: bool) -> None:
    made, scenario = repair
    await random_orders(scenario, made.control, chance, 1_000 if long else 40)
