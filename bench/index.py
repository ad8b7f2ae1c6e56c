"""The index and the reader: indexing against COPY, reads against bare asyncpg, 200 bytes of payload."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from itertools import islice
from typing import Final

import asyncpg
import fastavro
from bench import baselines, rivals
from bench.append import PAYLOAD, Measured
from bench.harness import Result, alternate, new_store, run
from bench.kafka import bare_latency, bare_topic
from bench.processes import gatelog
from bench.relay import every, published, some_records, with_backlog

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.indexer.rows import COLUMNS, Row, json_of
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import NewEvent
from gatelog.schemas.codec import Codec
from gatelog.schemas.event import new_id
from gatelog.schemas.postgres_registry import PostgresRegistry

INDEXED: Final = 200_000
EVERYTHING: Final = 1_000_000
LONG: Final = 10_000  # events of the long stream
SHORT: Final = 10
SHORT_READS: Final = 10_000
READERS: Final = 32
SECONDS: Final = 4.0
RATE: Final = 200  # appends a second on the quiet store
QUIET_S: Final = 10.0
WARM_UP_S: Final = 3  # of it: a broker that has just started is slow at first
VISIBLE_POLL_S: Final = 0.001

_FIELDS: Final = (
    "stream, version, position, event_id, type, recorded_at, correlation_id, causation_id, traceparent, metadata, "
    "schema_id, data"
)
_ONE: Final = f'SELECT {_FIELDS} FROM {{store}}.events WHERE stream = $1 COLLATE "C" ORDER BY version'


def rows_of(count: int, schema_id: int, data: bytes, text: str | None) -> Iterator[Row]:
    """Yield rows of the index: one stream of ``LONG`` events, and then short ones."""
    when = datetime.now(UTC)
    for number in range(count):
        short, place = divmod(number - LONG, SHORT)
        stream, version = ("Order-long", number + 1) if number < LONG else (f"Order-{short}", place + 1)
        envelope = (stream, version, number + 1, new_id(), "Measured", when, None, None, None, None)
        yield (*envelope, schema_id, data, "Order", text)


async def payload(store: Settings) -> tuple[int, bytes, str]:
    """Return the schema id, the Avro bytes and the JSON text of an event, its schema registered."""
    async with postgres.pool(store.dsn, store.store, "bench", 1) as pool:
        codec = Codec(PostgresRegistry(store, pool), register=True)
        await codec.learn(Measured)
        schema_id, data = codec.encode(Measured(text=PAYLOAD), "Order-1", store.event_bytes_max)
        await codec.warm({schema_id})
        return schema_id, data, json_of(codec, schema_id, data)


async def copied(settings: Settings, store: Settings, count: int) -> float:
    """Return the rows a second of bare COPY into the table of a store, in transactions as large as the indexer's."""
    rows = rows_of(count, *await payload(store))
    connection = await asyncpg.connect(settings.dsn)
    took = 0.0
    while chunk := list(islice(rows, store.index_rows_max)):
        begun = time.perf_counter()
        await connection.copy_records_to_table("events", schema_name=store.store, columns=COLUMNS, records=chunk)
        took += time.perf_counter() - begun
    await connection.close()
    return count / took


async def bare_copy(settings: Settings) -> float:
    """Return the rows a second of COPY into an empty index."""
    store = await new_store(settings)
    try:
        return await copied(settings, store, INDEXED)
    finally:
        await _drop(store)


async def indexed(store: Settings) -> float:
    """Return the events a second of an indexer on a full topic, from its first batch to its last."""
    connection = await asyncpg.connect(store.dsn)
    await connection.execute(
        f"ALTER TABLE {store.store}.events DISABLE TRIGGER USER; TRUNCATE {store.store}.events; "  # only here
        f"ALTER TABLE {store.store}.events ENABLE ALWAYS TRIGGER events_are_not_removed, "
        "ENABLE ALWAYS TRIGGER events_are_immutable; "
        f"DELETE FROM {store.store}.index_offsets; UPDATE {store.store}.index_frontier_log SET position = 0"
    )
    first = f"SELECT count(*), clock_timestamp() FROM {store.store}.events HAVING count(*) > 0"
    last = f"SELECT position, clock_timestamp() FROM {store.store}.index_frontier WHERE position > {INDEXED}"
    with gatelog(store, "indexer"):
        seen = await _when(connection, first)
        done = await _when(connection, last)
    await connection.close()
    return float((done[0] - seen[0]) / (done[1] - seen[1]).total_seconds())


async def _when(connection: "asyncpg.Connection[asyncpg.Record]", question: str) -> asyncpg.Record:
    """Ask until there is an answer; what is asked often must cost nothing beside what is measured."""
    while True:
        row = await connection.fetchrow(question)
        if row is not None:
            return row
        await asyncio.sleep(0.02)


async def visible(settings: Settings) -> list[float]:
    """Seconds from the answer of an append until queries see the event."""
    store = await with_backlog(settings, 0)
    answered: dict[str, float] = {}
    seen: dict[str, float] = {}
    newest = (
        f"SELECT event_id, position FROM {store.store}.indexed_events WHERE position > $1 "
        f"AND position <= (SELECT position FROM {store.store}.index_frontier) ORDER BY position"
    )

    async def watch() -> None:
        connection, position = await asyncpg.connect(store.dsn), 0
        while True:
            for row in await connection.fetch(newest, position):
                seen[str(row["event_id"])], position = time.monotonic(), row["position"]
            await asyncio.sleep(VISIBLE_POLL_S)

    async with Producer.connect(store) as producer, Reader.connect(store) as reader:

        async def append(number: int) -> None:
            event = NewEvent(Measured(text=PAYLOAD))
            await producer.append(f"Order-{number}", [event], expected_version=ANY)
            answered[str(event.id)] = time.monotonic()

        with gatelog(store, "run"):
            first = await producer.append("Order-warm", [Measured(text=PAYLOAD)], expected_version=ANY)
            await reader.indexed(first.event_ids, timeout=60)
            watching = asyncio.create_task(watch())
            await every(1 / RATE, QUIET_S, append)
            while not answered.keys() <= seen.keys():  # noqa: ASYNC110 - what a poll finds
                await asyncio.sleep(0.01)
            watching.cancel()
    return [max(0.0, seen[name] - at) for name, at in answered.items()][RATE * WARM_UP_S :]


async def rate(count: int, work: Callable[[], Awaitable[int]]) -> float:
    """Return things a second; all of them must be there."""
    begun = time.perf_counter()
    assert await work() == count
    return count / (time.perf_counter() - begun)


async def p50_us(*reads: Callable[[str], Awaitable[int]], streams: int) -> list[float]:
    """Return the median times of reading one short stream after the other, read by read in turns."""
    chance = random.Random(1)
    took: list[list[float]] = [[] for _ in reads]
    for _ in range(SHORT_READS):
        for place, read in enumerate(reads):
            stream = f"Order-{chance.randrange(streams)}"
            begun = time.perf_counter()
            assert await read(stream) == SHORT
            took[place].append(time.perf_counter() - begun)
    return [statistics.median(each) * 1e6 for each in took]


async def reads_per_s(read: Callable[[str], Awaitable[int]], streams: int) -> float:
    """Return the streams a second of ``READERS`` readers at once."""
    stop, done = time.perf_counter() + SECONDS, 0

    async def one(chance: random.Random) -> None:
        nonlocal done
        while time.perf_counter() < stop:
            assert await read(f"Order-{chance.randrange(streams)}") == SHORT
            done += 1

    await asyncio.gather(*(one(random.Random(seed)) for seed in range(READERS)))
    return done / SECONDS


@asynccontextmanager
async def filled(settings: Settings) -> AsyncIterator[Settings]:
    """Yield a store whose index holds ``EVERYTHING``."""
    store = await new_store(settings)
    await copied(settings, store, EVERYTHING)
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"UPDATE {store.store}.index_frontier_log SET position = {EVERYTHING}")
    await connection.execute(f"VACUUM ANALYZE {store.store}.events", timeout=300)
    await connection.close()
    yield store
    await _drop(store)


async def long_reads(store: Settings, reader: Reader, bare: "asyncpg.Connection[asyncpg.Record]") -> list[Result]:
    """Read the long stream, as envelopes and decoded."""
    one = _ONE.format(store=store.store)
    schema = fastavro.parse_schema(Measured.avro_schema())

    async def own() -> int:
        return sum([1 async for _ in reader.stream("Order-long")])

    async def own_decoded() -> int:
        return len([event.as_dict() async for event in reader.stream("Order-long")])

    async def fetch() -> int:
        return len(await bare.fetch(one, "Order-long"))

    async def fetch_decoded() -> int:
        rows = await bare.fetch(one, "Order-long")
        return len([fastavro.schemaless_reader(BytesIO(row["data"]), schema, None) for row in rows])

    works: list[Callable[[], Awaitable[int]]] = [own, fetch, own_decoded, fetch_decoded]
    for work in works:
        await work()  # statements are prepared, pages are in memory
    mine, theirs, decoded, by_hand = await alternate(*(partial(rate, LONG, work) for work in works), rounds=9)
    results = [
        Result("stream 10k vs fetch", mine, "ev/s", "bare asyncpg fetch", theirs, 0.6),
        Result("stream 10k decoded vs fetch+fastavro", decoded, "ev/s", "fetch and bare fastavro", by_hand, 0.8),
    ]
    if rivals.has("eventsourcing"):
        with rivals.eventsourcing_stream(store.dsn, LONG) as select:
            rival = partial(rate, LONG, partial(asyncio.to_thread, select))
            mine, theirs = await alternate(partial(rate, LONG, own), rival, rounds=5)
        results.append(Result("stream 10k vs eventsourcing", mine, "ev/s", "its select_events", theirs, 1.0))
    return results


async def short_reads(store: Settings, reader: Reader, bare: "asyncpg.Connection[asyncpg.Record]") -> list[Result]:
    """Read short streams, one after the other, and many at once."""
    streams, one = (EVERYTHING - LONG) // SHORT, _ONE.format(store=store.store)

    async def own(stream: str) -> int:
        return sum([1 async for _ in reader.stream(stream)])

    async def fetch(stream: str) -> int:
        return len(await bare.fetch(one, stream))

    mine, theirs = await p50_us(own, fetch, streams=streams)
    many, bench = await alternate(partial(reads_per_s, own, streams), partial(pgbench_reads, store, streams))
    return [
        Result("stream 10 p50", mine, "us", "bare asyncpg fetch", theirs, 1.3, True),
        Result("32 readers vs pgbench", many, "rd/s", "the same query, 32 clients", bench, 0.7),
    ]


async def whole_log(store: Settings, reader: Reader, bare: "asyncpg.Connection[asyncpg.Record]") -> list[Result]:
    """Read everything."""
    whole = f"SELECT {_FIELDS} FROM {store.store}.events WHERE position > 0 ORDER BY position"

    async def own() -> int:
        found = 0
        async for _ in reader.all():
            found += 1
        return found

    async def cursor() -> int:
        found = 0
        async with bare.transaction():
            async for _ in bare.cursor(whole, prefetch=5_000):
                found += 1
        return found

    mine, theirs = await alternate(partial(rate, EVERYTHING, own), partial(rate, EVERYTHING, cursor))
    return [Result("all vs fetch", mine, "ev/s", "bare asyncpg cursor", theirs, 0.6)]


async def pgbench_reads(store: Settings, streams: int) -> float:
    """Return the streams a second that pgbench reads with the reader's own statement."""
    statement = queries("gatelog.reader", "read.sql", store.store)["stream_forward"].replace("\n", " ")
    for parameter, value in (("$1", "('Order-' || :n)"), ("$2", "1"), ("$3", "9223372036854775807"), ("$4", "100")):
        statement = statement.replace(parameter, value)
    script = f"\\set n random(0, {streams - 1})\n{statement};\n"
    return await baselines.pgbench_script(store.dsn, script, READERS, int(SECONDS))


async def _drop(store: Settings) -> None:
    connection = await asyncpg.connect(store.dsn)
    await connection.execute(f"DROP SCHEMA {store.store} CASCADE", timeout=120)
    await connection.close()


async def measure(settings: Settings) -> list[Result]:
    """Run the whole suite."""
    store = await with_backlog(settings, INDEXED)
    with gatelog(store, "relay"):
        await published(store, INDEXED + 1)
    mine, theirs = await alternate(lambda: indexed(store), lambda: bare_copy(settings))
    results = [Result("index vs copy", mine, "ev/s", "COPY of the same rows", theirs, 0.6)]

    bare_topic(settings)
    records = await some_records(settings)
    one_record = statistics.median(await asyncio.to_thread(bare_latency, settings, records[0]))
    quiet = sorted(await visible(settings))
    p50, p99 = statistics.median(quiet), quiet[int(len(quiet) * 0.99)]
    baseline = "bare one-record transaction p50"
    results += [
        Result("index visible p50 vs bare transaction", p50 * 1e3, "ms", baseline, one_record * 1e3, 4.0, True),
        Result("index visible p99 vs bare transaction", p99 * 1e3, "ms", baseline, one_record * 1e3, 12.0, True),
    ]
    async with filled(settings) as large:
        bare = await asyncpg.connect(large.dsn)
        async with Reader.connect(large) as reader:
            for suite in (long_reads, short_reads, whole_log):
                results += await suite(large, reader, bare)
        await bare.close()
    return results


def main() -> None:
    """Run the suite."""
    run("index", measure)
