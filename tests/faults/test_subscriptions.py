"""Members of a subscription that come, go, die and freeze, each a process; the judge reads what they did."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from support import members
from support.members import NAME, handled, judge_order
from support.models import Noted
from support.processes import Background, background, environment
from support.retention import forget, indexed
from support.running import running
from support.subscribing import published
from support.waiting import until

from gatelog.core.domain import topic_of
from gatelog.core.identity import Identified
from gatelog.core.partitioning import partition_of
from gatelog.indexer import Indexer
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.reader.subscriptions.marks import Mark
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.reader.subscriptions.places import Place
from gatelog.reader.subscriptions.probing import Probe, committed

pytestmark = pytest.mark.classic

STREAMS = 12

Connection = asyncpg.Connection  # generic in the type stubs only


@pytest.fixture(autouse=True)
async def prepared(
    settings: Identified, connection: "Connection[asyncpg.Record]", tmp_path: Path
) -> AsyncIterator[None]:
    await members.prepare(connection, settings, tmp_path)
    async with running(Relay(settings)):
        yield


@pytest.fixture
def started() -> Iterator[list[Background]]:
    """Members that do not outlive the test, frozen or not."""
    found: list[Background] = []
    yield found
    for each in found:
        if each.process.poll() is None:
            each.kill()


async def append(producer: Producer, versions: int, *, poison: int | None = None) -> None:
    """Append to every stream; ``poison`` is the version that cannot be handled."""
    for version in range(1, versions + 1):
        text = "poison" if version == poison else "x"
        await asyncio.gather(
            *(
                producer.append(f"Note-{stream}", [Noted(text=text)], expected_version=ANY)
                for stream in range(STREAMS)
            )
        )


async def is_up(connection: "Connection[asyncpg.Record]", settings: Identified, member: Background) -> None:
    """Wait until a member is one: before that, a signal ends it as any other process."""

    async def does_beat() -> bool:
        found = f"SELECT count(*) FROM {settings.store}.subscription_members WHERE pid = $1"
        return bool(await connection.fetchval(found, member.process.pid))

    await until(does_beat, "the member is up")


async def has_handled(connection: "Connection[asyncpg.Record]", settings: Identified, count: int) -> None:
    async def enough() -> bool:
        query = f"SELECT count(*) FROM (SELECT DISTINCT stream, version FROM {settings.store}.handled) d"
        return bool(await connection.fetchval(query) >= count)

    await until(enough, f"{count} events are handled", timeout=120)


async def pids(connection: "Connection[asyncpg.Record]", settings: Identified) -> set[int]:
    return {pid for _, _, pid in await handled(connection, settings)}


async def test_members_that_come_and_go_handle_each_event_once(
    settings: Identified,
    producer: Producer,
    connection: "Connection[asyncpg.Record]",
    tmp_path: Path,
    started: list[Background],
    long: bool,
) -> None:
    """A clean end and a rebalance hand partitions over after their last commit: nothing is handled twice."""
    rounds = 20 if long else 2
    started.append(members.start(settings, tmp_path))
    total = 0
    for number in range(rounds):
        appending = asyncio.create_task(append(producer, 20))
        started.append(members.start(settings, tmp_path))
        await has_handled(connection, settings, total + STREAMS * 5)
        await is_up(connection, settings, started[number])
        assert await asyncio.to_thread(started[number].stop) == 0, "it ends well"
        await appending
        total += STREAMS * 20
        await has_handled(connection, settings, total)
    assert await asyncio.to_thread(started[-1].stop) == 0
    rows = await handled(connection, settings)
    counts = judge_order(rows, STREAMS, 20 * rounds)
    assert [row for row in rows if counts[row[:2]] > 1] == [], "handled twice"
    assert len(await pids(connection, settings)) >= 2


async def test_members_that_are_killed_lose_nothing_and_park_once(
    settings: Identified,
    producer: Producer,
    connection: "Connection[asyncpg.Record]",
    tmp_path: Path,
    started: list[Background],
    chance: random.Random,
    long: bool,
) -> None:
    rounds, versions = (20, 40) if long else (1, 30)
    started += [members.start(settings, tmp_path) for _ in range(2)]
    for number in range(rounds):
        poison = 10
        appending = asyncio.create_task(append(producer, versions, poison=poison))
        good = (versions - 1) * STREAMS
        await has_handled(connection, settings, good * number + chance.randrange(STREAMS, good // 2))
        victim = chance.choice([each for each in started if each.process.poll() is None])
        victim.kill()
        started.append(members.start(settings, tmp_path))
        await appending
        await has_handled(connection, settings, good * (number + 1))
    rows = await handled(connection, settings)
    seen = {(stream, version) for stream, version, _ in rows}
    every = {(f"Note-{s}", v) for s in range(STREAMS) for v in range(1, versions * rounds + 1)}
    poisoned = {(stream, version) for stream, version in every if version % versions == 10}
    assert seen == every - poisoned, "at least once"

    def parked() -> list[tuple[str, int]]:
        with ParkedTopic(settings, NAME) as topic:
            return [(event.stream, event.version) for event in topic.all()]

    async def are_parked() -> bool:
        return set(await asyncio.to_thread(parked)) == poisoned

    await until(are_parked, "what cannot be handled is parked")
    assert len(await asyncio.to_thread(parked)) == len(poisoned), "once each"


async def test_members_that_are_killed_in_the_history_go_on_where_they_were(
    settings: Identified,
    producer: Producer,
    connection: "Connection[asyncpg.Record]",
    tmp_path: Path,
    started: list[Background],
    chance: random.Random,
    long: bool,
) -> None:
    """Kafka has forgotten all; the members share what the index has, and what they committed does not come again."""
    rounds, versions = (20, 600) if long else (2, 50)
    async with running(Indexer(settings)), Reader.connect(settings) as reader:
        await append(producer, versions)
        await indexed(reader, STREAMS * versions)
        await forget(settings)
        slow = "--concurrency", "1"  # or it would be over before the first commit
        started += [members.start(settings, tmp_path, *slow) for _ in range(2)]
        settled: list[tuple[dict[Place, int], int]] = []  # what was committed, and how many had been handled by then
        for number in range(rounds):
            await has_handled(connection, settings, STREAMS * versions * (number + 1) // (rounds + 2))

            async def has_committed() -> bool:
                return any((await asyncio.to_thread(positions, settings)).values())

            await until(has_committed, "progress is committed")
            committed_now = await asyncio.to_thread(positions, settings)
            settled.append((committed_now, len(await handled(connection, settings))))
            victim = chance.choice([each for each in started if each.process.poll() is None])
            victim.kill()
            started.append(members.start(settings, tmp_path, *slow))
        await append(producer, 10)  # which are in Kafka
        await has_handled(connection, settings, STREAMS * (versions + 10))
        await indexed(reader, STREAMS * (versions + 10))
        at = {(event.stream, event.version): event.position or 0 async for event in reader.all()}
    rows = await handled(connection, settings)
    judge_order(rows, STREAMS, versions + 10)
    topic = topic_of(settings.store, "Note")
    for positions_then, count in settled:
        for stream, version, _ in rows[count:]:
            place = topic, partition_of(stream, settings.topic_partitions)
            assert at[stream, version] > positions_then.get(place, 0), "it was committed, and came again"


async def test_a_frozen_member_that_wakes_up_changes_nothing(
    settings: Identified,
    producer: Producer,
    connection: "Connection[asyncpg.Record]",
    tmp_path: Path,
    started: list[Background],
) -> None:
    """It is frozen in its work, past its session; another one takes over; its late commit is refused."""
    started.append(members.start(settings, tmp_path))
    await append(producer, 10)
    await has_handled(connection, settings, STREAMS * 10)
    frozen = started[0]
    appending = asyncio.create_task(append(producer, 100))
    await has_handled(connection, settings, STREAMS * 12)
    frozen.process.send_signal(signal.SIGSTOP)
    await appending
    started.append(members.start(settings, tmp_path))
    await has_handled(connection, settings, STREAMS * 110)
    await caught_up(settings)
    before = await asyncio.to_thread(offsets, settings)
    frozen.process.send_signal(signal.SIGCONT)

    async def has_noticed() -> bool:
        text = frozen.log.read_text()
        return "subscription.lost" in text or "subscription.commit_refused" in text

    await until(has_noticed, "it is told that its partitions are lost")
    assert await asyncio.to_thread(offsets, settings) == before, "nobody had anything to commit, and it could not"
    await append(producer, 5)
    await has_handled(connection, settings, STREAMS * 115)
    await caught_up(settings)
    after = await asyncio.to_thread(offsets, settings)
    assert all(after[place] >= offset for place, offset in before.items()), "no commit went back"
    assert await asyncio.to_thread(frozen.stop) == 0, "it is a member again, and ends well"
    judge_order(await handled(connection, settings), STREAMS, 115)


WEIGHED = """
import asyncio
from gatelog.reader import Subscription

app = Subscription("weighed", concurrency=8)

@app.on()
async def slow(event):
    await asyncio.sleep(0.01)
"""


async def test_a_member_far_behind_stays_flat(
    settings: Identified, producer: Producer, connection: "Connection[asyncpg.Record]", tmp_path: Path, long: bool
) -> None:
    """What it holds is bounded, its client's prefetch included: the process does not grow with what is before it."""
    events, growth_bytes_max = (1_000_000 if long else 20_000), 48 * 1024 * 1024
    text = "x" * 4_000  # all of it: 80 MB, or 4 GB
    for first in range(0, events, 1_000):
        notes = [HistoricEvent(f"Note-{first}", version, Noted(text=text)) for version in range(1, 1_001)]
        await producer.load(notes)
    await published(connection, settings, events)
    (tmp_path / "weighed.py").write_text(WEIGHED)
    bounds = {"GATELOG_SUBSCRIPTION_EVENTS_MAX": "1000", "GATELOG_SUBSCRIPTION_BYTES_MAX": str(4 * 1024 * 1024)}
    own = environment(settings, GATELOG_SUBSCRIPTION_PROTOCOL="classic", **bounds)
    with background(["consume", "weighed:app"], own, tmp_path / "log") as member:
        await is_up(connection, settings, member)
        process = psutil.Process(member.process.pid)
        begun = process.memory_info().rss
        sizes = []

        async def is_far_enough() -> bool:
            sizes.append(process.memory_info().rss)
            facts = await connection.fetchval(f"SELECT facts->>'handled' FROM {settings.store}.subscription_members")
            return int(facts or 0) >= (100_000 if long else 2_000)

        await until(is_far_enough, "it handles", timeout=600 if long else 60)
        print(f"from {begun / 2**20:.0f} MiB by {(max(sizes) - begun) / 2**20:.0f} MiB")
        assert max(sizes) - begun < growth_bytes_max
        assert await asyncio.to_thread(member.stop) == 0


def marks(settings: Identified) -> dict[Place, Mark]:
    with Probe(settings) as probe:
        places = probe.places(None)
    return committed(settings.kafka_properties, settings.named("sub", NAME), places)


def offsets(settings: Identified) -> dict[Place, int]:
    return {place: mark.offset for place, mark in marks(settings).items()}


def positions(settings: Identified) -> dict[Place, int]:
    return {place: mark.position or 0 for place, mark in marks(settings).items()}


async def caught_up(settings: Identified) -> None:
    def lag() -> int:
        with Probe(settings) as probe:
            found = offsets(settings)
            return len(probe.first(found)) if found else 1

    async def is_caught_up() -> bool:
        return await asyncio.to_thread(lag) == 0

    await until(is_caught_up, "everything is committed")
