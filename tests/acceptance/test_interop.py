"""The topics, read by programs that are not ours: kcat, and the console consumer that comes with Kafka."""

import asyncio
import os
import shutil
import subprocess

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.domain import topic_of
from gatelog.core.settings import Settings
from gatelog.local import jars
from gatelog.local.java import find_java
from gatelog.local.lockfile import read_lock
from gatelog.local.model import no_progress
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay

TIMEOUT_S = 60
STREAMS = ("Note-1", "Note-2", "Note-1")  # of the events, in the order in which they are appended
HEADERS = {
    "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_position",
}  # fmt: skip


@pytest.fixture
async def event_ids(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> list[str]:
    """Publish three events; an aborted record of somebody else, which no reader is to see, lies after them."""
    done = [await producer.append(stream, [Noted(text="x")], expected_version=ANY) for stream in STREAMS]

    async def is_published() -> bool:
        query = f"SELECT position + pending_events FROM {settings.store}.relay"
        return bool(await connection.fetchval(query) >= len(STREAMS))

    async with running(Relay(settings)):
        await until(is_published, "the events are in Kafka")
    await asyncio.to_thread(write_and_abort, settings)
    return [str(each.event_ids[0]) for each in done]


def write_and_abort(settings: Settings) -> None:
    stranger = KafkaProducer({**settings.kafka_properties, "transactional.id": f"stranger-{settings.store}"})
    stranger.init_transactions(30.0)
    stranger.begin_transaction()
    stranger.produce(topic_of(settings.store, "Note"), b"aborted", b"aborted", 0)
    assert stranger.flush(30.0) == 0
    stranger.abort_transaction(30.0)


def run(command: list[str], **environment: str) -> bytes:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def judge(records: list[tuple[bytes, dict[str, str], bytes]], event_ids: list[str]) -> None:
    """Compare what was read, in order of partitions, with what was appended."""
    records.sort(key=lambda record: int(record[1]["ce_position"]))
    assert [key.decode() for key, _, _ in records] == list(STREAMS)
    assert [headers["ce_id"] for _, headers, _ in records] == event_ids
    assert [headers["ce_position"] for _, headers, _ in records] == ["1", "2", "3"]
    assert [headers["ce_subject"] for _, headers, _ in records] == list(STREAMS)
    assert all(headers.keys() >= HEADERS for _, headers, _ in records)
    magic, schema_ids = {value[0] for _, _, value in records}, {value[1:5] for _, _, value in records}
    assert magic == {0}, "Confluent wire format: a zero byte, then the schema's id in four"
    assert len(schema_ids) == 1
    assert int.from_bytes(schema_ids.pop()) > 0
    assert {value[5:] for _, _, value in records} == {b"\x02x"}, "Avro: a string of length 1"


def headers_of(text: bytes, separator: str) -> dict[str, str]:
    """Read name, separator, value, with commas between."""
    return dict(pair.split(separator, 1) for pair in text.decode().split(","))


async def test_kcat(settings: Settings, event_ids: list[str]) -> None:
    kcat = shutil.which("kcat")
    if kcat is None:
        pytest.skip("needs kcat (Debian: apt-get install kcat)")
    servers, topic = settings.kafka_properties["bootstrap.servers"], topic_of(settings.store, "Note")
    committed = ["-X", "isolation.level=read_committed"]
    form = ["-f", "%k\\n%h\\n%S\\n%s\\n"]
    output = await asyncio.to_thread(run, [kcat, "-C", "-e", "-q", "-b", servers, "-t", topic, *committed, *form])
    records = []
    while output:
        key, headers, size, rest = output.split(b"\n", 3)
        value, output = rest[: int(size)], rest[int(size) + 1 :]
        records.append((key, headers_of(headers, "="), value))
    judge(records, event_ids)


async def test_console_consumer(settings: Settings, event_ids: list[str]) -> None:
    servers, topic = settings.kafka_properties["bootstrap.servers"], topic_of(settings.store, "Note")
    jar_files = await asyncio.to_thread(jars.ensure_jars, read_lock(), jars.cache_folder(), no_progress)
    own = {
        "print.headers": "true",
        "print.key": "true",
        "key.separator": "<field>",
        "line.separator": "<record>",
    }
    command = [
        find_java(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        "--bootstrap-server", servers, "--topic", topic, "--from-beginning", "--isolation-level", "read_committed",
        "--timeout-ms", "5000",  # without a record
    ]  # fmt: skip
    for name, value in own.items():
        command += ["--formatter-property", f"{name}={value}"]
    output = await asyncio.to_thread(run, command, CLASSPATH=os.pathsep.join(map(str, jar_files)))
    records = []
    for record in output.split(b"<record>")[:-1]:
        headers, key, payload = record.split(b"<field>")
        records.append((key, headers_of(headers, ":"), payload))
    judge(records, event_ids)
