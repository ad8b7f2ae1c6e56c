"""Appends: ten to a stream, 200 bytes of payload, exact expected version, models encoded inside the measurement."""

import asyncio
import gc
import multiprocessing
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

import asyncpg
import uvloop
from bench import baselines, rivals
from bench.harness import Result, alternate, new_store, run

from gatelog.core.settings import Settings
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.producer.loading import COLUMNS
from gatelog.schemas import Event, NewEvent
from gatelog.schemas.event import new_id

SECONDS: Final = 4.0
LONE_APPENDS: Final = 1_500
LOAD_EVENTS: Final = 100_000
HOT_STREAMS: Final = 20
PAYLOAD: Final = "x" * 198
DATA: Final = PAYLOAD.encode()


class Measured(Event):
    """200 bytes as Avro: the text, and its length."""

    text: str


@dataclass
class Rate:
    """Events a second, and how long each append took."""

    events_per_s: float
    took_s: list[float] = field(repr=False)

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the time of an append."""
        return sorted(self.took_s)[int(len(self.took_s) * share)] * 1e3


async def callers(
    producer: Producer, count: int, events: int, *, hot: bool = False, seconds: float = SECONDS
) -> Rate:
    """Let ``count`` callers append ``events`` events at a time, each to streams of its own, or to hot ones."""
    tag, took = secrets.token_hex(4), []
    stop = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        stream = 0
        while time.perf_counter() < stop:
            stream += 1
            for nth in range(10):
                name = f"Order-hot-{(number + nth) % HOT_STREAMS}" if hot else f"Order-{tag}-{number}-{stream}"
                new = [Measured(text=PAYLOAD) for _ in range(events)]
                started = time.perf_counter()
                await producer.append(name, new, expected_version=ANY if hot else nth * events)
                took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(count)))
    return Rate(len(took) * events / (time.perf_counter() - started), took)


async def one_caller_p50_s(producer: Producer) -> float:
    """Return the median time of one append after the other."""
    tag, took = secrets.token_hex(4), []
    for number in range(LONE_APPENDS):
        event = Measured(text=PAYLOAD)
        started = time.perf_counter()
        await producer.append(f"Order-{tag}-{number // 10}", [event], expected_version=number % 10)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def _process(settings: Settings, hot: bool, answers: "multiprocessing.Queue[tuple[int, float]]") -> None:
    async def work() -> None:
        async with Producer.connect(settings) as producer:
            rate = await callers(producer, 500, 1, hot=hot)
            answers.put((len(rate.took_s), rate.events_per_s))

    uvloop.run(work())


async def two_processes(settings: Settings, *, hot: bool) -> float:
    """Return the events a second of two processes with 500 callers each; every event must be there."""
    store = await new_store(settings)
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[tuple[int, float]] = context.Queue()
    processes = [context.Process(target=_process, args=(store, hot, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [await asyncio.to_thread(answers.get) for _ in processes]
    for process in processes:
        await asyncio.to_thread(process.join)
    connection = await asyncpg.connect(store.dsn)
    stored = await connection.fetchval(f"SELECT sum(version) FROM {store.store}.streams")
    await connection.execute(f"DROP SCHEMA {store.store} CASCADE")
    await connection.close()
    assert stored == sum(count for count, _ in found), "a lost update"
    return sum(rate for _, rate in found)


async def load_events_per_s(settings: Settings) -> float:
    """Return the events a second of a bulk load, Avro included."""
    store = await new_store(settings)
    streams = LOAD_EVENTS // 10
    history = [
        HistoricEvent(f"Order-{stream}", version, NewEvent(Measured(text=PAYLOAD)))
        for stream in range(streams)
        for version in range(1, 11)
    ]
    async with Producer.connect(store) as producer:
        await producer.prepare(Measured)
        _made_beforehand()
        started = time.perf_counter()
        await producer.load(history)
        took = time.perf_counter() - started
    await _drop(store)
    return LOAD_EVENTS / took


async def copy_events_per_s(settings: Settings) -> float:
    """Return the rows a second of a bare COPY into the same table, with its indexes, in chunks as large."""
    store = await new_store(settings)
    when = datetime.now(UTC)
    data = b"\x8c\x03" + DATA
    rows = [
        (f"Order-{n // 10}", n % 10 + 1, when, new_id(), "Measured", 1, data, None, None, None, None)
        for n in range(LOAD_EVENTS)
    ]
    connection = await asyncpg.connect(store.dsn)
    size = store.load_chunk_events
    _made_beforehand()
    started = time.perf_counter()
    for at in range(0, len(rows), size):
        await connection.copy_records_to_table(
            "outbox_0", schema_name=store.store, columns=COLUMNS, records=rows[at : at + size]
        )
    took = time.perf_counter() - started
    await connection.close()
    await _drop(store)
    return LOAD_EVENTS / took


def _made_beforehand() -> None:
    """Take what exists so far out of the garbage collector's sight: its walks belong to whoever made it."""
    gc.collect()
    gc.freeze()


async def _drop(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"DROP SCHEMA {settings.store} CASCADE")
    await connection.close()


async def fill_gate(settings: Settings, streams: int) -> None:
    """Put rows into the gate as if that many streams had had their first event."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(
        f"INSERT INTO {settings.store}.streams (stream, version) "
        "SELECT 'Order-' || md5(n::text), 1 FROM generate_series(1, $1::bigint) n",
        streams,
        timeout=900,
    )
    await connection.execute(f"VACUUM ANALYZE {settings.store}.streams", timeout=900)
    await connection.close()


async def against_rivals(settings: Settings, producer: Producer) -> list[Result]:
    """Hold 32 callers against other stores, those that are installed, each in turns with gatelog."""
    results: list[Result] = []

    async def gatelog(events: int) -> float:
        return (await callers(producer, 32, events)).events_per_s

    async def held(name: str, events: int, rival: Callable[[], Awaitable[float]], target: float | None) -> None:
        own, theirs = await alternate(lambda: gatelog(events), rival)
        shape = "32 callers" if events == 1 else f"32 callers x {events}"
        results.append(Result(f"{shape} vs {name}", own, "ev/s", name, theirs, target))

    if rivals.has("umadb"):
        with rivals.umadb_server() as address:
            one = partial(asyncio.to_thread, rivals.umadb, address, 1, SECONDS)
            ten = partial(asyncio.to_thread, rivals.umadb, address, 10, SECONDS)
            await held("UmaDB", 1, one, 2.5)
            await held("UmaDB", 10, ten, 1.0)
    if rivals.has("eventsourcing"):
        eventsourcing = partial(asyncio.to_thread, rivals.eventsourcing, settings.dsn, 1, SECONDS)
        await held("eventsourcing", 1, eventsourcing, 12.0)
    if await rivals.install_message_db(settings.dsn):
        await held("Message DB", 1, lambda: rivals.message_db(settings.dsn, int(SECONDS)), None)
    return results


async def measure(settings: Settings) -> list[Result]:
    """Run the whole suite."""
    await baselines.make_tables(settings.dsn)
    results: list[Result] = []
    store = await new_store(settings)
    bare = await asyncpg.connect(settings.dsn)
    async with Producer.connect(store) as producer:
        lone, insert = await alternate(
            lambda: one_caller_p50_s(producer),
            lambda: baselines.bare_insert_p50_s(bare, LONE_APPENDS, DATA),
        )
        results.append(Result("one caller p50", lone * 1e6, "us", "bare asyncpg INSERT p50", insert * 1e6, 1.6, True))

        many: list[Rate] = []

        async def events_per_s(count: int, events: int) -> float:
            rate = await callers(producer, count, events)
            if count == 1_000:
                many.append(rate)
            return rate.events_per_s

        few, tens, thousand, commits, lone_commits, naive = await alternate(
            lambda: events_per_s(32, 1),
            lambda: events_per_s(32, 10),
            lambda: events_per_s(1_000, 1),
            lambda: baselines.pgbench(settings.dsn, 32, int(SECONDS)),
            lambda: baselines.pgbench(settings.dsn, 1, int(SECONDS)),
            lambda: baselines.naive_store(settings.dsn, 32, SECONDS, DATA, secrets.token_hex(4)),
        )
        p50 = statistics.median(rate.quantile_ms(0.5) for rate in many)
        p99 = statistics.median(rate.quantile_ms(0.99) for rate in many)
        results += [
            Result("32 callers vs pgbench", few, "ev/s", "pgbench, 32 clients, one row", commits, 1.2),
            Result("32 callers x 10 vs pgbench", tens, "ev/s", "pgbench, 32 clients, one row", commits, 3.0),
            Result("1000 callers vs 32", thousand, "ev/s", "32 callers", few, 1.0),
            Result("1000 callers p99", p99, "ms", "1000 callers p50", p50, 4.0, True),
            Result("1000 callers vs pgbench", thousand, "ev/s", "pgbench, 32 clients, one row", commits, None),
            Result("32 callers vs naive", few, "ev/s", "max(version) and INSERT, 32 callers", naive, None),
            Result("one caller vs pgbench", 1 / lone, "ev/s", "pgbench, 1 client, one row", lone_commits, None),
        ]
        results += await against_rivals(settings, producer)
    hot, distinct = await alternate(
        lambda: two_processes(settings, hot=True), lambda: two_processes(settings, hot=False)
    )
    results.append(Result("hot streams vs distinct", hot, "ev/s", "2 x 500 callers, own streams", distinct, 0.5))
    loaded, copied = await alternate(lambda: load_events_per_s(settings), lambda: copy_events_per_s(settings))
    results.append(Result("bulk vs copy", loaded, "ev/s", "COPY into the same table", copied, 0.6))
    small, large = await new_store(settings), await new_store(settings)
    await fill_gate(small, 10_000)
    await fill_gate(large, 10_000_000)

    async def rate_of(store: Settings) -> float:
        async with Producer.connect(store) as producer:
            return (await callers(producer, 1_000, 1)).events_per_s

    grown, young = await alternate(lambda: rate_of(large), lambda: rate_of(small))
    results.append(Result("10M streams vs 10k", grown, "ev/s", "10,000 streams in the gate", young, 0.8))
    await bare.close()
    return results


def main() -> None:
    """Run the suite."""
    run("append", measure)
