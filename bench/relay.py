"""The relay: draining a backlog, latency on a quiet store, idle cost, memory, take-over, the whole pipeline."""

import asyncio
import signal
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Final

import asyncpg
from bench import baselines
from bench.append import PAYLOAD, Measured, callers
from bench.harness import ROUNDS, Result, alternate, new_store, run
from bench.kafka import Seen, bare_drain, bare_latency, bare_topic
from bench.processes import gatelog

from gatelog.core.domain import topic_of
from gatelog.core.identity import identified
from gatelog.core.settings import Settings
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.producer.relay.records import Record, records_of
from gatelog.producer.relay.ticks import Ticks
from gatelog.schemas import NewEvent

BACKLOG: Final = 500_000
RATE: Final = 200  # appends a second on the quiet store
QUIET_S: Final = 10.0
WARM_UP_S: Final = 3  # of it: a broker that has just started is slow at first
IDLE_S: Final = 15.0
PIPELINE_S: Final = 60.0
CALLERS: Final = 200


async def published(settings: Settings, position: int) -> None:
    """Wait until the relay has published up to ``position``, and knows it."""
    connection = await asyncpg.connect(settings.dsn)
    while await connection.fetchval(f"SELECT position FROM {settings.store}.relay") < position:  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)
    await connection.close()


async def with_backlog(settings: Settings, events: int) -> Settings:
    """Return a store whose outbox holds ``events``, and whose topic exists."""
    store = await new_store(settings)
    async with Producer.connect(store) as producer:
        await producer.append("Order-first", [Measured(text=PAYLOAD)], expected_version=ANY)
        with gatelog(store, "relay"):
            await published(store, 1)
        streams = range(events // 10)
        await producer.load(
            HistoricEvent(f"Order-{stream}", version, NewEvent(Measured(text=PAYLOAD)))
            for stream in streams
            for version in range(1, 11)
        )
    return store


async def drain(settings: Settings) -> float:
    """Return events a second, from the end of the first tick to that of the last."""
    store = await with_backlog(settings, BACKLOG)
    with gatelog(store, "relay"):
        await published(store, 2)
        begun = time.perf_counter()
        await published(store, BACKLOG + 1)
        return (BACKLOG + 1 - store.tick_events_max) / (time.perf_counter() - begun)


async def some_records(settings: Settings) -> list[Record]:
    """Return a tick's worth of records as the relay sends them."""
    store = await with_backlog(settings, 20_000)
    connection = await asyncpg.connect(store.dsn)
    ticks = Ticks(connection, store)
    await ticks.prepare()
    await ticks.take_over()
    tick = await ticks.next()
    assert tick is not None
    own = await identified(store, connection)
    await connection.close()
    return list(records_of(own.store, own.source, tick))


async def quiet_latency(settings: Settings) -> list[float]:
    """Seconds from the answer of an append until its record is at a read_committed consumer."""
    store = await with_backlog(settings, 0)
    answered: dict[str, float] = {}
    async with Producer.connect(store) as producer:

        async def append(number: int) -> None:
            event = NewEvent(Measured(text=PAYLOAD))
            await producer.append(f"Order-{number}", [event], expected_version=ANY)
            answered[str(event.id)] = time.monotonic()

        topic = topic_of(store.store, "Order")
        with gatelog(store, "relay"), Seen(store, topic) as seen:
            await every(1 / RATE, QUIET_S, append)
            while len(seen.at) < len(answered):  # noqa: ASYNC110 - set by a thread, once for each record
                await asyncio.sleep(0.01)
    return [seen.at[name] - at for name, at in answered.items()][RATE * WARM_UP_S :]


async def every(interval_s: float, duration_s: float, action: Callable[[int], Awaitable[None]]) -> None:
    """Start ``action`` at even intervals, whether or not the last one is through."""
    begun, tasks = time.monotonic(), []
    for number in range(int(duration_s / interval_s)):
        await asyncio.sleep(max(0.0, begun + number * interval_s - time.monotonic()))
        tasks.append(asyncio.ensure_future(action(number)))
    await asyncio.gather(*tasks)


async def idle_cpu(settings: Settings) -> float:
    """Return the share of a core, in percent, that a relay takes when nothing is appended."""
    store = await with_backlog(settings, 0)
    with gatelog(store, "relay") as process:
        await asyncio.sleep(3)  # started, and settled
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(IDLE_S)
        return 100 * (sum(process.cpu_times()[:2]) - before) / IDLE_S


async def peak_memory_mb(settings: Settings, backlog: int) -> float:
    """Return the most memory that a relay had while it drained a backlog."""
    store = await with_backlog(settings, backlog)
    peak = 0
    with gatelog(store, "relay") as process:
        done = asyncio.create_task(published(store, backlog + 1))
        while not done.done():
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.02)
    return peak / 1e6


async def take_over_s(settings: Settings, number: signal.Signals) -> float:
    """Return the seconds from the signal that stops the active relay until an event is published by the other."""
    store = await with_backlog(settings, 0)
    async with Producer.connect(store) as producer:
        with ExitStack() as relays:
            first = relays.enter_context(gatelog(store, "relay"))
            await producer.append("Order-1", [Measured(text=PAYLOAD)], expected_version=ANY)
            await published(store, 2)
            relays.enter_context(gatelog(store, "relay"))
            await asyncio.sleep(3)  # it stands by
            begun = time.perf_counter()
            first.send_signal(number)
            await producer.append("Order-1", [Measured(text=PAYLOAD)], expected_version=ANY)
            await published(store, 3)
            took = time.perf_counter() - begun
            first.send_signal(signal.SIGCONT)
    return took


async def pipeline(settings: Settings) -> tuple[float, list[float]]:
    """Return acknowledged events a second with relay and indexer at work, and the lag, in seconds, every second."""
    store = await new_store(settings)
    lags: list[float] = []
    with gatelog(store, "run"):
        async with Producer.connect(store) as producer:
            connection = await asyncpg.connect(store.dsn)
            working = asyncio.create_task(callers(producer, CALLERS, 1, seconds=PIPELINE_S))
            while not working.done():
                await asyncio.sleep(1)
                # How old is the oldest event that is accepted and not in the index?
                lags.append(await connection.fetchval(_LAG.format(store=store.store)))
            await connection.close()
            return (await working).events_per_s, lags


_LAG: Final = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - (
    SELECT recorded_at FROM {store}.outbox o
    WHERE o.id > (SELECT last_value FROM {store}.outbox_floor)
        AND NOT EXISTS (SELECT FROM {store}.indexed_events e WHERE e.event_id = o.event_id)
    ORDER BY id LIMIT 1)), 0)::float8
"""


async def measure(settings: Settings) -> list[Result]:
    """Run the whole suite."""
    await baselines.make_tables(settings.dsn)
    bare_topic(settings)
    records = await some_records(settings)

    async def bare_rate() -> float:
        return await asyncio.to_thread(bare_drain, settings, records, BACKLOG)

    await bare_rate()  # the broker's own compiler has seen it all then
    drained, produced = await alternate(lambda: drain(settings), bare_rate)
    results = [Result("drain vs bare produce", drained, "ev/s", "bare transactional produce", produced, 0.7)]

    bare = statistics.median(await asyncio.to_thread(bare_latency, settings, records[0]))
    quiet = sorted(await quiet_latency(settings))
    p50, p99 = statistics.median(quiet), quiet[int(len(quiet) * 0.99)]
    baseline = "bare one-record transaction p50"
    results += [
        Result("publish p50 vs bare transaction", p50 * 1e3, "ms", baseline, bare * 1e3, 2.0, True),
        Result("publish p99 vs bare transaction", p99 * 1e3, "ms", baseline, bare * 1e3, 6.0, True),
        Result("idle relay", await idle_cpu(settings), "%", "of a core", 100.0, 0.01, True),
    ]
    much, little = await peak_memory_mb(settings, BACKLOG), await peak_memory_mb(settings, BACKLOG // 5)
    results.append(Result("memory, 500,000 waiting", much, "MB", "100,000 waiting", little, 1.1, True))
    for name, number, limit in (("killed", signal.SIGKILL, 2.0), ("frozen", signal.SIGSTOP, 5.0)):
        took = [await take_over_s(settings, number) for _ in range(ROUNDS)]
        results.append(Result(f"take-over, {name}", max(took), "s", "the limit", limit, 1.0, True))

    commits = await baselines.pgbench(settings.dsn, 32, 10)
    accepted, lags = await pipeline(settings)
    lags = lags[10:]  # the indexer has joined its group, and caught up
    half = len(lags) // 2
    early, late = statistics.median(lags[:half]), statistics.median(lags[half:])
    results += [
        Result("pipeline vs pgbench", accepted, "ev/s", "pgbench, 32 clients, alone", commits, 0.8),
        Result("pipeline lag, second half", late, "s", "first half", early, None, True),
        Result(
            "pipeline lag p99",
            sorted(lags)[int(len(lags) * 0.99)],
            "s",
            "median",
            statistics.median(lags),
            None,
            True,
        ),
    ]
    return results


def main() -> None:
    """Run the suite."""
    run("relay", measure)
