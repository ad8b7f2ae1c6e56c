"""Services and stores for the tests.

Postgres and Kafka are real, started once a run in a folder of their own and shared by all workers; each test
has a store of its own. ``GATELOG_TEST_POSTGRES_DSN`` and ``GATELOG_TEST_KAFKA_BOOTSTRAP_SERVERS`` name servers
to use instead, ``--containers`` takes them from testcontainers.
"""

import asyncio
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import asyncpg
import hypothesis
import pytest
from support.databases import databases
from support.projections import Connection, dropped_with_their_store
from support.running import running

from gatelog.console.store import initialise
from gatelog.core import kafka
from gatelog.core.identity import Identified, ask
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.local import Endpoints, LocalServices
from gatelog.producer import Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader

# How long an example takes says nothing on a machine that others use: pytest's own timeout bounds a test.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")

# Who was killed behind a cut network has left a session, and its locks: Postgres does not hear of it for hours.
_END_SESSIONS = """
SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE c.relnamespace = to_regnamespace('"' || $1 || '"') AND l.pid <> pg_backend_pid() AND l.database = (
    SELECT d.oid FROM pg_database d WHERE d.datname = current_database()
) GROUP BY l.pid
"""

POSTGRES = "GATELOG_TEST_POSTGRES_DSN"
KAFKA = "GATELOG_TEST_KAFKA_BOOTSTRAP_SERVERS"
REGISTRY = "GATELOG_TEST_REGISTRY_URL"
_HOME = "gatelog_home"
_home = pytest.StashKey[Path]()


class XdistNode(Protocol):
    """What pytest-xdist hands to ``pytest_configure_node``."""

    config: pytest.Config
    workerinput: dict[str, str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--containers", action="store_true", help="take Postgres and Kafka from testcontainers")
    parser.addoption("--long", action="store_true", help="hundreds of rounds of each fault, from a random seed")
    parser.addoption("--seed", type=int, help="of what is random in the fault tests; printed when one fails")


def pytest_configure(config: pytest.Config) -> None:
    """The first process makes the folder, the workers are told."""
    told = getattr(config, "workerinput", {})
    home = Path(told[_HOME]) if told else Path(tempfile.mkdtemp(prefix="gatelog-test-"))
    config.stash[_home] = home
    if not told:
        config.add_cleanup(lambda: _remove(home))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: XdistNode) -> None:
    """Called by pytest-xdist before it starts a worker."""
    node.workerinput[_HOME] = str(node.config.stash[_home])


def _remove(home: Path) -> None:
    LocalServices(home / "services").destroy()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether there is time for hundreds of rounds."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def chance(pytestconfig: pytest.Config, long: bool) -> random.Random:
    """What is random in a fault test; the same in every run unless ``--long`` or ``--seed`` says otherwise."""
    given = pytestconfig.getoption("--seed")
    seed = given if given is not None else secrets.randbelow(10**6) if long else 1
    print(f"--seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def endpoints(pytestconfig: pytest.Config) -> Iterator[Endpoints]:
    """Where Postgres and Kafka listen."""
    if pytestconfig.getoption("--containers"):
        from support.containers import endpoints  # needs `pip install gatelog[testcontainers]` and Docker

        with endpoints() as found:
            yield found
        return
    dsn, servers = os.environ.get(POSTGRES), os.environ.get(KAFKA)
    local = LocalServices(pytestconfig.stash[_home] / "services")
    if dsn and servers:
        yield Endpoints(dsn, servers)
    elif dsn:
        yield Endpoints(dsn, local.up(only="kafka").kafka_bootstrap_servers)
    elif servers:
        yield Endpoints(local.up(only="postgres").postgres_dsn, servers)
    else:
        yield local.up()  # by each worker: the first one starts them


@pytest.fixture(scope="session")
async def spare_dsns(endpoints: Endpoints) -> AsyncIterator[list[str]]:
    """Two databases beside the one of the gates, for tests that have their index elsewhere."""
    async with databases(endpoints.postgres_dsn, 2) as dsns:
        yield dsns


@pytest.fixture(scope="session")
def registry_url(pytestconfig: pytest.Config) -> str:
    """Where a real registry with Confluent's API listens; started by the first test that asks."""
    given = os.environ.get(REGISTRY)
    return given or LocalServices(pytestconfig.stash[_home] / "services").up(only="registry").registry_url


@pytest.fixture
async def bare_settings(endpoints: Endpoints, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a store that has no tables yet."""
    settings = Settings.load(
        store=f"t{secrets.token_hex(6)}",
        home=tmp_path / "home",
        postgres_dsn=endpoints.postgres_dsn,
        kafka={"bootstrap.servers": endpoints.kafka_bootstrap_servers},
        topic_partitions=3,
        outbox_segment_events=50,  # rotations are rare otherwise
    )
    yield settings
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(_END_SESSIONS, settings.store)
    await connection.execute(f'DROP SCHEMA IF EXISTS "{settings.store}" CASCADE')
    await connection.close()
    await asyncio.to_thread(_delete_topics, settings)


def _delete_topics(settings: Settings) -> None:
    admin = kafka.admin(settings.kafka_properties)
    names = [
        name
        for name in admin.list_topics(timeout=10).topics
        if name.startswith((f"{settings.store}.", f"{settings.store}-"))
    ]
    if names:
        for future in admin.delete_topics(names).values():
            future.exception(timeout=30)


@pytest.fixture
async def settings(bare_settings: Settings, request: pytest.FixtureRequest) -> Identified:
    """Settings of an initialised, empty store, with its id; nothing runs on it.

    Under ``pytest.mark.classic``, with the classic protocol: under KIP-848 brokers that were not told otherwise
    let a group that was left a moment ago wait for five seconds, and take 45 s to miss a member.
    """
    await initialise(bare_settings)
    settings = await ask(bare_settings, "test")
    if request.node.get_closest_marker("classic") is None:
        return settings
    return settings.model_copy(update={"subscription_protocol": "classic"})


@pytest.fixture
async def producer(settings: Settings) -> AsyncIterator[Producer]:
    async with Producer.connect(settings) as producer:
        yield producer


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[Reader]:
    async with Reader.connect(settings) as reader:
        yield reader


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A bare connection: tests look at tables with it, or play the stranger."""
    connection = await asyncpg.connect(settings.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def rows(connection: "asyncpg.Connection[asyncpg.Record]", settings: Settings) -> AsyncIterator[Connection]:
    """A connection to read models in the store's database; their schemas go when the test is over."""
    yield connection
    await dropped_with_their_store(connection, settings)


@pytest.fixture
async def relay(settings: Settings) -> AsyncIterator[None]:
    """A relay, running in this process."""
    async with running(Relay(settings)):
        yield


@pytest.fixture
async def pipeline(settings: Settings) -> AsyncIterator[None]:
    """Relay, outbox keeper and indexer, running in this process."""
    async with running(Relay(settings), OutboxKeeper(settings), Indexer(settings)):
        yield
