"""Does an event cost more the more there are? Indexing and reads of streams at growing sizes, by shape of table.

Not a suite of ``make bench``: it takes long, and starts a Postgres of its own. Every stream is as likely as any other
to get the next event, which is the worst case. Rows are made in Postgres, by the transaction size of the indexer.

    python bench/growth.py --millions 1 3 10 --shapes plain by_position by_stream
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from gatelog.console.store import initialise
from gatelog.core.settings import Settings
from gatelog.core.sql import with_store
from gatelog.local import LocalServices, postgres

STORE: Final = "growth"
PARTITION_EVENTS: Final = 1_000_000
HASH_PARTITIONS: Final = 16
FILL_ROWS: Final = 100_000
WINDOW_ROWS: Final = 200_000
BATCH_ROWS: Final = 5_000
READS: Final = 1_000
STREAM_EVENTS: Final = 10

_INSERT: Final = """
INSERT INTO @store.events (position, stream, version, event_id, category, type, schema_id, recorded_at,
    correlation_id, data)
SELECT p, 'Order-' || md5(floor(random() * greatest(p / 10, 10000))::bigint::text), p, uuidv7(), 'Order',
    'OrderPlaced', 1, now(), uuidv7(), decode(repeat('ab', 120), 'hex')
FROM generate_series($1::bigint, $2::bigint) p
"""
_READ: Final = """
SELECT i.stream, i.version, i.position, i.event_id, i.type, i.recorded_at, i.correlation_id, i.causation_id,
    i.traceparent, i.metadata, i.schema_id, i.data
FROM @store.events i WHERE i.stream = $1 COLLATE "C" AND i.version BETWEEN 1 AND 9223372036854775807
ORDER BY i.version LIMIT 1000
"""
_INDEXES: Final = """
CREATE UNIQUE INDEX ON @store.{0} (position);
CREATE UNIQUE INDEX ON @store.{0} (stream, version);
CREATE UNIQUE INDEX ON @store.{0} (event_id);
CREATE INDEX ON @store.{0} (category, position);
CREATE INDEX ON @store.{0} (correlation_id, position) WHERE correlation_id IS NOT NULL;
"""
_COUNTERS: Final = """
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal, w.wal_fpi,
    (SELECT sum(reads) FROM pg_stat_io WHERE backend_type = 'client backend') AS reads,
    (SELECT sum(writes) FROM pg_stat_io) AS writes
FROM pg_stat_wal w
"""


def shape(name: str, millions: int) -> str:
    """Return the statements that make an empty table ``events`` of a shape."""
    if name == "plain":
        return "SELECT 1"  # as `gatelog init` makes it
    key = "RANGE (position)" if name == "by_position" else "HASH (stream)"
    number = millions * 1_000_000 // PARTITION_EVENTS + 1 if name == "by_position" else HASH_PARTITIONS
    text = f"""
        CREATE TABLE @store.made (LIKE @store.events INCLUDING DEFAULTS INCLUDING STORAGE) PARTITION BY {key};
        DROP TABLE @store.events CASCADE;
        ALTER TABLE @store.made RENAME TO events;
    """
    for nth in range(number):
        bounds = (
            f"FROM ({nth * PARTITION_EVENTS}) TO ({(nth + 1) * PARTITION_EVENTS})"
            if name == "by_position"
            else f"WITH (MODULUS {HASH_PARTITIONS}, REMAINDER {nth})"
        )
        text += f"CREATE TABLE @store.events_{nth} PARTITION OF @store.events FOR VALUES {bounds};"
        text += _INDEXES.format(f"events_{nth}")
    return text


class Growth:
    """One table, filled to one size after the other."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]", name: str) -> None:
        self._connection = connection
        self._name = name
        self._last = 0
        self._pid = 0

    async def make(self, millions: int) -> None:
        self._pid = await self._connection.fetchval("SELECT pg_backend_pid()")
        await self._connection.execute(with_store(shape(self._name, millions), STORE))

    async def measure(self, events: int) -> dict[str, Any]:
        """Fill up to ``events``; measure the last rows, and reads after them."""
        while self._last < events - WINDOW_ROWS:
            await self._insert(min(FILL_ROWS, events - WINDOW_ROWS - self._last))
        await self._connection.execute("CHECKPOINT")
        before, cpu, wall = await self._counters(), self._cpu(), time.perf_counter()
        while self._last < events:
            await self._insert(BATCH_ROWS)
        wall, cpu, after = time.perf_counter() - wall, self._cpu() - cpu, await self._counters()
        per_row = {f"{name} a row": round((after[name] - before[name]) / WINDOW_ROWS, 3) for name in before}
        await self._connection.execute(with_store("ANALYZE @store.events", STORE))
        return {
            "shape": self._name,
            "events": events,
            "rows/s": round(WINDOW_ROWS / wall),
            "cpu us a row": round(cpu / WINDOW_ROWS * 1e6, 2),
            **per_row,
            **await self._reads(events),
            **await self._sizes(),
        }

    async def _insert(self, rows: int) -> None:
        await self._connection.execute(with_store(_INSERT, STORE), self._last + 1, self._last + rows)
        self._last += rows

    async def _counters(self) -> dict[str, float]:
        await self._connection.execute("SELECT pg_stat_force_next_flush()")
        row = await self._connection.fetchrow(_COUNTERS)
        assert row is not None
        return {name: float(value or 0) for name, value in row.items()}

    def _cpu(self) -> float:
        """Seconds of CPU that the backend has used."""
        fields = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    async def _reads(self, events: int) -> dict[str, float]:
        query = with_store(_READ, STORE)
        names = await self._connection.fetch(
            f"SELECT 'Order-' || md5(floor(random() * {events // 10})::bigint::text) AS name "
            f"FROM generate_series(1, {2 * READS})"
        )
        buffers, misses, rows, times = [], [], [], []
        for row in names[:READS]:
            text = await self._connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", row["name"])
            plan = json.loads(text)[0]["Plan"]
            buffers.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
            misses.append(plan["Shared Read Blocks"])
            rows.append(plan["Actual Rows"])
        cpu = self._cpu()
        for row in names[READS:]:
            start = time.perf_counter()
            await self._connection.fetch(query, row["name"])
            times.append(time.perf_counter() - start)
        return {
            "read rows": round(statistics.mean(rows), 1),
            "read buffers": round(statistics.mean(buffers), 1),
            "read misses": round(statistics.mean(misses), 1),
            "read cpu us": round((self._cpu() - cpu) / READS * 1e6),
            "read p50 us": round(statistics.median(times) * 1e6),
        }

    async def _sizes(self) -> dict[str, float]:
        rows = await self._connection.fetch(
            with_store(
                """
                SELECT substring(i.indexdef FROM '\\((\\w+)') AS kind,
                    sum(pg_relation_size(format('%I.%I', i.schemaname, i.indexname)::regclass)) AS bytes
                FROM pg_indexes i WHERE i.schemaname = $1 AND i.tablename ~ '^events' GROUP BY 1
                """,
                STORE,
            ),
            STORE,
        )
        heap = await self._connection.fetchval(
            "SELECT sum(pg_relation_size(c.oid)) FROM pg_class c WHERE c.relnamespace = $1::regnamespace "
            "AND c.relkind = 'r' AND c.relname ~ '^events'",
            STORE,
        )
        return {"heap bytes": round(float(heap) / self._last)} | {
            f"{row['kind']} index bytes": round(float(row["bytes"]) / self._last, 1) for row in rows
        }


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(settings.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--shapes", nargs="+", default=["plain", "by_position", "by_stream"])
    parser.add_argument("--shared-buffers", help="of Postgres, as 2GB; by default that of `gatelog up`")
    options = parser.parse_args()
    if options.shared_buffers:
        postgres._SETTINGS["shared_buffers"] = (
            options.shared_buffers
        )  # no setting of gatelog's: it is for development
    with tempfile.TemporaryDirectory(prefix="gatelog-growth-") as folder:
        services = LocalServices(Path(folder) / "services")
        endpoints = await asyncio.to_thread(services.up, only="postgres")
        try:
            for name in options.shapes:
                settings = Settings.load(store=STORE, postgres_dsn=endpoints.postgres_dsn)
                await initialise(settings)
                async with connected(settings) as connection:
                    growth = Growth(connection, name)
                    await growth.make(max(options.millions))
                    for millions in options.millions:
                        print(json.dumps(await growth.measure(millions * 1_000_000)), flush=True)
                    await connection.execute(f"DROP SCHEMA {STORE} CASCADE")
        finally:
            await asyncio.to_thread(services.destroy)


if __name__ == "__main__":
    asyncio.run(main())
