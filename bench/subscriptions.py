"""Subscriptions: envelopes and payloads of a backlog, parallel handlers, latency from an append to a handler."""

import asyncio
import importlib.util
import secrets
import statistics
import tempfile
import time
from io import BytesIO
from typing import Any, Final

import fastavro
from bench import baselines, subscriptions_order
from bench.append import PAYLOAD, Measured
from bench.handlers import HANDLER_S
from bench.harness import Result, alternate, new_store, run
from bench.kafka import bare_latency, bare_topic
from bench.processes import gatelog
from bench.relay import every, published, some_records, with_backlog
from confluent_kafka import Consumer, TopicPartition

from gatelog.core.domain import topic_of
from gatelog.core.settings import Settings
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.reader import Subscription
from gatelog.schemas import NewEvent, RecordedEvent

BACKLOG: Final = 1_000_000
STREAMS: Final = 1_000
PER_STREAM: Final = 300
CONCURRENCY: Final = 200
RATE: Final = 200  # appends a second on the quiet store
QUIET_S: Final = 15.0
WARM_UP_S: Final = 3  # of it: a broker that has just started is slow at first


async def with_published(settings: Settings, streams: int, per_stream: int) -> Settings:
    """Return a store whose events are in Kafka, in ``streams`` streams."""
    store = await new_store(settings)
    async with Producer.connect(store) as producer:
        await producer.load(
            HistoricEvent(f"Order-{stream}", version, NewEvent(Measured(text=PAYLOAD)))
            for version in range(1, per_stream + 1)
            for stream in range(streams)
        )
    with gatelog(store, "relay"):
        await published(store, streams * per_stream)
    return store


def bare_consume(store: Settings, count: int, definition: dict[str, Any] | None = None) -> float:
    """Return records a second of the bare client: consume(1000), headers parsed; with a schema, payloads too."""
    topic = topic_of(store.store, "Order")
    own = {"group.id": f"bare-{secrets.token_hex(4)}", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    consumer = Consumer({**store.kafka_properties, **own})
    parsed = None if definition is None else fastavro.parse_schema(definition)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(store.topic_partitions)])
    while not consumer.consume(1, 10.0):
        pass
    begun, seen = time.perf_counter(), 1
    while seen < count:
        for message in consumer.consume(min(1_000, count - seen), 1.0):  # it waits for a full batch
            if message.error() is None:
                _headers, value = dict(message.headers() or ()), message.value()
                seen += 1
                if parsed is not None and value is not None:
                    fastavro.schemaless_reader(BytesIO(value[5:]), parsed, None)
    took = time.perf_counter() - begun
    consumer.close()
    return (count - 1) / took


async def envelopes(store: Settings, count: int, *, decoded: bool) -> float:
    """Return events a second through ``async for``, from the first event on."""
    stop, seen, begun = asyncio.Event(), 0, 0.0
    async for event in Subscription(f"bench-{secrets.token_hex(4)}").events(stop, store):
        if not seen:
            begun = time.perf_counter()
        seen += 1
        if decoded:
            event.as_dict()
        if seen == count:
            stop.set()
            took = time.perf_counter() - begun
    return (count - 1) / took


async def parallel_handlers(store: Settings, count: int) -> float:
    """Return events a second that handlers of ``HANDLER_S`` handle, ``CONCURRENCY`` of them at once."""
    stop, seen, begun, took = asyncio.Event(), 0, 0.0, 0.0
    subscription = Subscription(f"bench-{secrets.token_hex(4)}")

    @subscription.on(Measured)
    async def handle(_event: RecordedEvent[Measured]) -> None:
        nonlocal seen, begun, took
        begun = begun or time.perf_counter()
        await asyncio.sleep(HANDLER_S)
        seen += 1
        if seen == count:
            took = time.perf_counter() - begun
            stop.set()

    await subscription.run(stop, store, concurrency=CONCURRENCY)
    return count / took


async def consumed_in_a_process(store: Settings, count: int) -> float:
    """Return events a second that ``gatelog consume`` handles with the same handler."""
    with tempfile.NamedTemporaryFile("rb") as report:
        own = {"BENCH_REPORT": report.name, "BENCH_SUBSCRIPTION": f"bench-{secrets.token_hex(4)}"}
        arguments = ["consume", "bench.handlers:app", "--concurrency", str(CONCURRENCY)]
        with gatelog(store, *arguments, environment=own):
            times: list[float] = []
            handled = 0
            while handled < count:
                for line in report.readlines():
                    at, events = line.split()
                    times.append(float(at))
                    handled += int(events)
                await asyncio.sleep(0.01)
    return handled / (max(times) - min(times))


async def handler_latency(settings: Settings) -> list[float]:
    """Seconds from the answer of an append until its handler is called, the warm-up left out."""
    store = await with_backlog(settings, 0)
    answered: dict[str, float] = {}
    called: dict[str, float] = {}
    subscription, stop = Subscription("bench"), asyncio.Event()

    @subscription.on(Measured)
    async def handle(event: RecordedEvent[Measured]) -> None:
        called[str(event.id)] = time.monotonic()

    async with Producer.connect(store) as producer:

        async def append(number: int) -> None:
            event = NewEvent(Measured(text=PAYLOAD))
            await producer.append(f"Order-{number}", [event], expected_version=ANY)
            answered[str(event.id)] = time.monotonic()

        with gatelog(store, "relay"):
            running = asyncio.create_task(subscription.run(stop, store))
            while not called:  # noqa: ASYNC110 - the first event of the store: the group has joined
                await asyncio.sleep(0.05)
            await every(1 / RATE, QUIET_S, append)
            while len(called) <= len(answered):  # noqa: ASYNC110 - set by the handler, once for each event
                await asyncio.sleep(0.01)
            stop.set()
            await running
    return [called[name] - at for name, at in answered.items()][RATE * WARM_UP_S :]


async def faststream(store: Settings, count: int) -> float | None:
    """Return messages a second of FastStream's Confluent broker, or None where it is not installed."""
    if importlib.util.find_spec("faststream") is None:
        print("  left out: faststream is not installed (pip install 'faststream[confluent]')")
        return None
    from faststream.confluent import KafkaBroker

    broker: Any = KafkaBroker(store.kafka_properties["bootstrap.servers"])
    done, seen, begun, took = asyncio.Event(), 0, 0.0, 0.0
    group = f"faststream-{secrets.token_hex(4)}"

    @broker.subscriber(topic_of(store.store, "Order"), group_id=group, auto_offset_reset="earliest")  # type: ignore[untyped-decorator] # not installed as a rule
    async def handle(_body: bytes) -> None:
        nonlocal seen, begun, took
        begun = begun or time.perf_counter()
        seen += 1
        if seen == count:
            took = time.perf_counter() - begun
            done.set()

    async with broker:
        await broker.start()
        await done.wait()
    return count / took


async def measure(settings: Settings) -> list[Result]:
    """Run the whole suite."""
    await baselines.make_tables(settings.dsn)
    bare_topic(settings)
    store = await with_published(settings, BACKLOG // 10, 10)
    schema = Measured.avro_schema()

    async def bare() -> float:
        return await asyncio.to_thread(bare_consume, store, BACKLOG)

    async def bare_decoded() -> float:
        return await asyncio.to_thread(bare_consume, store, BACKLOG, schema)

    await bare()  # the broker's cache is warm then
    read, consumed, dicts, consumed_dicts = await alternate(
        lambda: envelopes(store, BACKLOG, decoded=False),
        bare,
        lambda: envelopes(store, BACKLOG, decoded=True),
        bare_decoded,
    )
    results = [
        Result("envelopes vs bare consume", read, "ev/s", "bare consume(1000), headers parsed", consumed, 0.5),
        Result("decoded vs bare+fastavro", dicts, "ev/s", "bare consume and fastavro", consumed_dicts, 0.7),
    ]
    if (rival := await faststream(store, BACKLOG // 10)) is not None:
        results.append(Result("envelopes vs FastStream", read, "ev/s", "FastStream (confluent)", rival, 1.0))
    busy = await with_published(settings, STREAMS, PER_STREAM)
    count, ideal = STREAMS * PER_STREAM, CONCURRENCY / HANDLER_S
    command, within = await alternate(
        lambda: consumed_in_a_process(busy, count), lambda: parallel_handlers(busy, count)
    )
    results += [
        Result("parallel handlers, gatelog consume", command, "ev/s", "200 / 5 ms", ideal, 0.8),
        Result("parallel handlers, in a program", within, "ev/s", "200 / 5 ms", ideal, 0.8),
    ]

    record = (await some_records(settings))[0]
    transaction = statistics.median(await asyncio.to_thread(bare_latency, settings, record))
    quiet = sorted(await handler_latency(settings))
    p50, p99 = statistics.median(quiet), quiet[int(len(quiet) * 0.99)]
    baseline = "bare one-record transaction p50"
    return [
        *results,
        Result("handler p50 vs bare transaction", p50 * 1e3, "ms", baseline, transaction * 1e3, 2.5, True),
        Result("handler p99 vs bare transaction", p99 * 1e3, "ms", baseline, transaction * 1e3, 8.0, True),
        *await subscriptions_order.measure(settings),
    ]


def main() -> None:
    """Run the suite."""
    run("subscriptions", measure)
