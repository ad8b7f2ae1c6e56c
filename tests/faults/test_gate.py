"""The gate when servers, networks, disks and clocks fail under it, and callers change their minds."""

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest
from pydantic import SecretStr
from support.appenders import Answers, answers_of, appender, stored
from support.link import Link, link, served_at
from support.models import Noted
from support.waiting import until
from support.writers import Writers

from gatelog.console.store import initialise
from gatelog.core.errors import AppendTimeoutError, PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.local.process import wait_gone
from gatelog.producer import ANY, Appended, Producer
from gatelog.reader import Reader
from gatelog.schemas import NewEvent

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
DISK_MIB = 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs root and `mount`, for a small tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "gatelog-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def store_in(services: LocalServices) -> Settings:
    """Start a Postgres, and make a store in it."""
    endpoints = await asyncio.to_thread(services.up, only="postgres")
    settings = Settings.load(store="faults", home=services.home, postgres_dsn=endpoints.postgres_dsn)
    await initialise(settings)
    return settings


async def crash(services: LocalServices) -> None:
    """SIGKILL the postmaster."""
    (postgres,) = [service for service in services.status() if service.name == "postgres"]
    process = psutil.Process(postgres.pid)
    process.kill()
    assert await asyncio.to_thread(wait_gone, process, 10.0)


async def acknowledged(writers: Writers, more: int) -> None:
    """Wait until so many more events were acknowledged."""
    enough = len(writers.acknowledged) + more

    async def they_are() -> bool:
        return len(writers.acknowledged) >= enough

    await until(they_are, f"{more} more events are acknowledged")


async def test_a_server_killed_in_mid_batch_and_started_again_is_not_noticed(
    own: LocalServices, chance: random.Random, long: bool
) -> None:
    settings = await store_in(own)
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        writers = Writers(producer, chance)
        async with writers.writing(10):
            for _ in range(40 if long else 3):
                await acknowledged(writers, more=100)
                await asyncio.sleep(chance.uniform(0, 0.05))  # any moment of a batch
                await crash(own)
                await asyncio.to_thread(own.up, only="postgres")
            await acknowledged(writers, more=100)
        assert writers.errors == [], "the server was back in time: batches are sent again until they are answered"
        await writers.judge(reader)


async def test_a_server_that_stays_away_is_a_retryable_error(own: LocalServices, chance: random.Random) -> None:
    settings = (await store_in(own)).model_copy(update={"append_timeout_s": 1.0})
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        writers = Writers(producer, chance)
        async with writers.writing(5):
            await acknowledged(writers, more=100)
            await crash(own)

            async def callers_hear_of_it() -> bool:
                return len(writers.errors) >= 10

            await until(callers_hear_of_it, "each caller is told")
            await asyncio.to_thread(own.up, only="postgres")
            await acknowledged(writers, more=100)
        assert {type(error) for error in writers.errors} <= {AppendTimeoutError, PostgresUnavailableError}
        await writers.judge(reader)


async def test_a_full_disk_is_told_and_outlived(small_disk: Path, chance: random.Random, long: bool) -> None:
    """Postgres refuses, or panics when it is the write-ahead log that has no room; either is outlived."""
    services = LocalServices(small_disk / "own")
    settings = (await store_in(services)).model_copy(update={"append_timeout_s": 2.0})
    try:
        async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
            writers = Writers(producer, chance, characters=20_000)
            async with writers.writing(3):
                for number in range(5 if long else 1):
                    await acknowledged(writers, more=30)
                    ballast = small_disk / "ballast"
                    fill(ballast, leave_mib=chance.randint(0, 20) if number else 0)
                    seen = len(writers.errors)

                    async def callers_hear_of_it(seen: int = seen) -> bool:
                        return len(writers.errors) > seen

                    await until(callers_hear_of_it, "a caller is told")
                    ballast.unlink()
                    await asyncio.to_thread(services.up, only="postgres")  # if it could not stay up
                    await acknowledged(writers, more=30)
            await writers.judge(reader)
            assert any("No space left on device" in str(error) for error in writers.errors), writers.errors
    finally:
        await asyncio.to_thread(services.destroy)


def fill(ballast: Path, leave_mib: int) -> None:
    """Take all of a disk but a little, from those who are writing to it."""
    with ballast.open("wb") as file:
        while (take := shutil.disk_usage(ballast.parent).free - leave_mib * 1024 * 1024) > 0:
            with suppress(OSError):  # it has become less meanwhile
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), take)


async def test_two_processes_decide_on_several_streams_and_no_update_is_lost(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", chance: random.Random
) -> None:
    """Each append expects the versions of two streams that it has read; every event says which one."""
    seeds = chance.sample(range(1000), 2)
    one, two = (appender(settings, "transfers", name, seed) for name, seed in zip("ab", seeds, strict=True))
    async with one as first, two as second:
        answers = await asyncio.gather(answers_of(first), answers_of(second))
        assert [await process.wait() for process in (first, second)] == [0, 0]
    found = await stored(reader, connection, settings.store)
    assert answers[0] | answers[1] == found
    assert len(found) == sum(map(len, answers)), "no version was given to both"
    for (_, version), text in found.items():
        assert text.startswith(f"saw {version - 1} "), "it was decided on the version before it"


async def test_a_storm_of_cancellations_and_timeouts_disturbs_nobody(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    chance: random.Random,
    long: bool,
) -> None:
    """Callers leave at any point, some with a transaction of their own; those who stay are answered, in order."""
    async with asyncpg.create_pool(settings.dsn, min_size=0, max_size=4) as pool:
        for number in range(100 if long else 10):
            await storm(producer, pool, reader, chance, f"{number}")

    async def nothing_is_open() -> bool:
        return not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid() "
            "AND state <> 'idle'",
            f"%{settings.store}%",
        )

    await until(nothing_is_open, "no connection is left in a transaction")


async def storm(
    producer: Producer, pool: "asyncpg.Pool[asyncpg.Record]", reader: Reader, chance: random.Random, name: str
) -> None:
    events = [NewEvent(Noted(text=str(number))) for number in range(100)]

    async def stays(number: int) -> Appended:
        return await producer.append(f"Stay-{name}.{number % 10}", [events[number]], expected_version=ANY)

    async def leaves(number: int) -> Appended:
        stream = f"Leave-{name}.{number % 10}"
        async with asyncio.timeout(chance.choice([None, 0.0, 0.001, chance.uniform(0, 0.02)])):
            if number % 4:
                return await producer.append(stream, [events[number]], expected_version=ANY)
            async with pool.acquire() as own, own.transaction():
                return await producer.append(stream, [events[number]], expected_version=ANY, connection=own)

    tasks = [asyncio.create_task((stays if number % 2 else leaves)(number)) for number in range(100)]
    for task in chance.sample(tasks[::2], 30):
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(chance.choice([0, chance.uniform(0, 0.02)]), task.cancel)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for number, answer in enumerate(answers):
        left = number % 2 == 0 and isinstance(answer, TimeoutError | asyncio.CancelledError)
        assert left or isinstance(answer, Appended), answer
    for number in range(1, 20, 2):
        found = [event.id async for event in reader.stream(f"Stay-{name}.{number % 10}")]
        assert found == [events[each].id for each in range(number % 10, 100, 10)]
    for number in range(0, 100, 2):  # what became of the others, a repetition tells
        again = await producer.append(f"Leave-{name}.{number % 10}", [events[number]], expected_version=ANY)
        assert again.known or not isinstance(answers[number], Appended)
    for number in range(0, 10, 2):
        found = [event.id async for event in reader.stream(f"Leave-{name}.{number}")]
        assert sorted(found) == sorted(events[each].id for each in range(number, 100, 10))


async def test_appends_go_on_while_no_connection_is_to_be_had(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", chance: random.Random
) -> None:
    """The role's limit is used up by others: what is open serves everybody, and what is not is asked for again."""
    role = f"{settings.store}_narrow"
    await connection.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 3; GRANT ALL ON SCHEMA {settings.store} TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA {settings.store} TO {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {settings.store} TO {role}"
    )
    dsn = settings.dsn.replace(settings.dsn[settings.dsn.index("//") : settings.dsn.index("@")], f"//{role}:x")
    try:
        others = [await asyncpg.connect(dsn) for _ in range(2)]
        async with Producer.connect(settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})) as producer:
            writers = Writers(producer, chance)
            async with writers.writing(5):
                await acknowledged(writers, more=100)
                others.append(await taken_over(connection, role, dsn))
                for each in others:
                    await each.close()
                await acknowledged(writers, more=100)
            assert writers.errors == []
            await writers.judge(reader)
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def taken_over(
    connection: "asyncpg.Connection[asyncpg.Record]", role: str, dsn: str
) -> "asyncpg.Connection[asyncpg.Record]":
    """Terminate a producer's connections until one of its places was taken from it."""
    while True:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE usename = $1 AND application_name = 'gatelog producer'",
            role,
        )
        try:
            return await asyncpg.connect(dsn)
        except asyncpg.TooManyConnectionsError:
            continue


@pytest.mark.skipif(FAKETIME is None, reason="a clock that jumps needs libfaketime (Debian: apt install faketime)")
async def test_a_clock_that_jumps_changes_neither_order_nor_ids(
    settings: Settings, reader: Reader, chance: random.Random, tmp_path: Path
) -> None:
    """The wall clock of an appending process is set to and fro by days; what is appended keeps its order."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    fake = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with appender(settings, "wall-clock", "a", 0, **fake) as process:
        answers: Answers = {}
        while more := await answers_of(process, upto=50):
            answers |= more
            clock.write_text(f"{chance.randint(-9, 9):+}d")
        assert await process.wait() == 0
    ids = list(answers.values())
    assert len(set(ids)) == len(ids) == 800
    days = set()
    for task in range(20):
        events = [event async for event in reader.stream(f"Own-a.{task}")]
        assert {(event.stream, event.version): str(event.id) for event in events}.items() <= answers.items()
        assert [event.version for event in events] == list(range(1, 41))
        assert [event.recorded_at for event in events] == sorted(event.recorded_at for event in events)
        days |= {int(event.data.text) // 86_400 for event in events if isinstance(event.data, Noted)}
    assert max(days) - min(days) > 1, "the clock did jump"


@asynccontextmanager
async def networked(settings: Settings, chance: random.Random) -> AsyncIterator[tuple[Link, Settings]]:
    """A bad network, and settings by which a process at its other end finds Postgres."""
    async with link(chance) as wire, served_at(wire.address, settings.dsn) as dsn:
        yield wire, settings.model_copy(update={"postgres_dsn": SecretStr(dsn)})


async def test_latency_loss_and_partitions_slow_appends_down_and_no_more(
    settings: Settings,
    reader: Reader,
    connection: "asyncpg.Connection[asyncpg.Record]",
    chance: random.Random,
    long: bool,
) -> None:
    """100 ms there and back, 5 % of packets lost in each direction, and at times all of them."""
    async with networked(settings, chance) as (wire, there):
        wire.delay_s, wire.loss = 0.05, 0.05
        async with appender(there, "own", "a", 0, within=wire.within) as process:
            answers: Answers = {}
            while more := await answers_of(process, upto=100):
                answers |= more
                if long or len(answers) == 300:
                    wire.cut = True
                    await asyncio.sleep(chance.uniform(0.5, 3))  # as long as a partition lasts
                    wire.cut = False
            _, said = await process.communicate()
            assert process.returncode == 0, said.decode()
    assert len(answers) == 800
    assert answers == await stored(reader, connection, settings.store)


async def test_connections_that_the_network_forgets_are_given_up_in_time(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", chance: random.Random
) -> None:
    """Nobody resets them: TCP alone would go on trying for a quarter of an hour."""
    async with networked(settings, chance) as (wire, there):
        limit = {"GATELOG_APPEND_TIMEOUT_S": "1.5"}
        async with appender(there, "stubborn", "a", 0, within=wire.within, **limit) as process:
            answers = await answers_of(process, upto=200)
            wire.forget()
            answers |= await answers_of(process)
            _, said = await process.communicate()
            assert process.returncode == 0, said.decode()
    assert len(answers) == 800
    assert answers == await stored(reader, connection, settings.store)
