"""Brokers that restart and freeze, members that freeze beyond every limit: whatever consumes goes on by itself."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined] # public, not in __all__
from support.broker import Broker, asking, up
from support.everything import Everything, everything
from support.models import Noted
from support.processes import background, environment
from support.projections import Connection
from support.running import running
from support.subscribing import published
from support.waiting import until

from gatelog.core import kafka
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.local import LocalServices
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader.subscriptions import takeover
from gatelog.reader.subscriptions.client import ProtocolNotSupportedError, hasten

pytestmark = pytest.mark.timeout(600)

WAITS_MAX = 150  # lines about all restarts of a test
SESSION_S = 6  # the default: brokers allow no less, if not told to


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    """A Kafka that may be killed: the shared one has other users."""
    services = LocalServices(tmp_path_factory.mktemp("own") / "services")
    yield services
    services.destroy()


@pytest.fixture
async def away(settings: Settings, own: LocalServices) -> Settings:
    """Settings with the Kafka that may be killed."""
    servers = (await asyncio.to_thread(own.up, only="kafka")).kafka_bootstrap_servers
    return settings.model_copy(update={"kafka": {"bootstrap.servers": servers}})


@pytest.fixture(params=["classic", "consumer"])
async def at_work(
    request: pytest.FixtureRequest, away: Settings, rows: Connection, tmp_path: Path
) -> AsyncIterator[Everything]:
    """Everything that consumes, under either protocol; it is prepared, and no member runs yet."""
    settings = away.model_copy(update={"subscription_protocol": request.param})
    with everything(settings, tmp_path, rows) as made:
        await made.prepare()
        async with running(Relay(settings)):
            yield made


async def killed(own: LocalServices, away_s: float) -> None:
    await Broker(own).killed()
    await asyncio.sleep(away_s)  # how long it is away is what is tried
    await up(own)


async def frozen(process: int, away_s: float) -> None:
    os.kill(process, signal.SIGSTOP)
    await asyncio.sleep(away_s)  # as above
    os.kill(process, signal.SIGCONT)


async def test_the_broker_restarts(at_work: Everything, producer: Producer, own: LocalServices, long: bool) -> None:
    """Killed, or frozen, for shorter and longer than sessions, requests and transactions last."""
    at_work.start()
    await at_work.append(producer, 10)
    await at_work.done()
    for away_s in (0.5, 5, 20) if long else (0.5, 5):
        appending = asyncio.create_task(at_work.append(producer, 30))
        await killed(own, away_s)
        await appending
        await at_work.done()
    for away_s in (9, 30) if long else ():
        appending = asyncio.create_task(at_work.append(producer, 30))
        await frozen(Broker(own).pid, away_s)
        await appending
        await at_work.done()
    await at_work.judge()
    lines = at_work.log.splitlines()
    assert all(line.startswith("{") for line in lines), "raw text of a library, or a traceback"
    waits = [line for line in lines if '"level": "warning"' in line and "event.retry" not in line]
    assert len(waits) < WAITS_MAX, "a wait is a line now and then"


@pytest.mark.parametrize("members", [1, 2])
async def test_members_are_frozen_beyond_every_limit(
    at_work: Everything, producer: Producer, members: int, long: bool
) -> None:
    """What others have handled meanwhile is not committed over; who wakes up is a member again."""
    for _ in range(members):
        at_work.start()
    await at_work.append(producer, 10)
    await at_work.done()
    for away_s in (9, 130) if long else (9,):
        appending = asyncio.create_task(at_work.append(producer, 60))
        await frozen(at_work.members[0].process.pid, away_s)
        await appending
        await at_work.done()
        await at_work.append(producer, 10)
        await at_work.done()
    await at_work.judge()
    assert [await asyncio.to_thread(each.stop) for each in at_work.members] == [0] * members


async def test_committed_offsets_are_asked_for_while_the_broker_dies(
    away: Settings, own: LocalServices, long: bool
) -> None:
    """An admin client that is asked for them ends the process when the coordinator goes at the wrong moment."""
    with asking(away.kafka_properties, 4) as processes:
        for _ in range(20 if long else 2):
            await killed(own, 1)
        assert [process.exitcode for process in processes] == [None] * len(processes)


async def test_silent_members_are_given_up_soon_or_the_classic_protocol_is_taken(away: Settings) -> None:
    group, properties = "gatelog.group", away.kafka_properties

    def configured() -> tuple[str | None, str | None]:
        client, asked = kafka.admin(properties), ConfigResource(ResourceType.GROUP, group)
        found = client.describe_configs([asked])[asked].result(30)
        return found[takeover.SESSION_TIMEOUT].value, found[takeover.HEARTBEAT_INTERVAL].value

    async def becomes(session_ms: int, heartbeat_ms: int) -> None:
        async def is_told() -> bool:
            return await asyncio.to_thread(configured) == (str(session_ms), str(heartbeat_ms))

        await until(is_told, f"brokers give up silent members after {session_ms} ms")

    await asyncio.to_thread(hasten, away, group)
    await becomes(SESSION_S * 1000, 1_000)
    await asyncio.to_thread(hasten, away.model_copy(update={"subscription_session_timeout_s": 20.0}), group)
    await becomes(20_000, 3_333)
    refused = away.model_copy(update={"subscription_session_timeout_s": 3.0})
    with pytest.raises(ProtocolNotSupportedError, match=r"20 s.*group\.consumer\.min\."):
        await asyncio.to_thread(hasten, refused, group)
    await asyncio.to_thread(hasten, refused.model_copy(update={"subscription_protocol": "consumer"}), group)  # a line
    await becomes(20_000, 3_333)


@pytest.mark.parametrize(
    "command",
    [["tail"], ["run"], ["relay"], ["indexer"], ["consume", "members_program.py:app"]]
    + [["consume", f"members_program.py:{target}"] for target in ("partition", "total", "transform")],
    ids=lambda command: "-".join(command).removesuffix(".py"),
)
async def test_a_signal_ends_commands_while_kafka_is_frozen(
    away: Settings,
    producer: Producer,
    own: LocalServices,
    connection: Connection,
    rows: Connection,
    tmp_path: Path,
    command: list[str],
) -> None:
    """Each of them was at work; all that it can do then is wait for Kafka."""
    with everything(away, tmp_path, rows) as made:
        await made.prepare()
    async with running(Relay(away), Indexer(away)):
        await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)
        await published(connection, away, 1)
    own_environment = environment(away, PYTHONPATH=str(Path(__file__).parent.parent))
    log = tmp_path / "command.log"
    with background([*command, "--json-logs"] if command != ["tail"] else command, own_environment, log) as process:

        async def is_at_work() -> bool:
            return bool(psutil.Process(process.process.pid).net_connections())

        await until(is_at_work, "it has begun")
        broker = Broker(own)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await broker.stopped()
            process.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.process.wait, 15) in {0, 130}, "5 s, on a machine at leisure"
        finally:
            os.kill(broker.pid, signal.SIGCONT)
