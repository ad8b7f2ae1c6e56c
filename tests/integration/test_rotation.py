"""The outbox is rotated: it stays small whatever is open elsewhere, and nothing is missed or stored twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
import pytest
from support.models import Noted
from support.running import running
from support.waiting import until

from gatelog.core.errors import GatelogError
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, HistoricEvent, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.schemas import NewEvent


class Rotation:
    """Takes steps on a connection of its own, as the keeper's would be set up."""

    def __init__(self, settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._settings = settings
        self.connection = connection

    async def step(self, **changes: float) -> str | None:
        settings = self._settings.model_copy(update={"outbox_segment_events": 1, **changes})
        return await OutboxKeeper(settings).run_once(self.connection)

    async def until(self, wanted: str, **changes: float) -> None:
        async def is_taken() -> bool:
            return await self.step(**changes) == wanted

        await until(is_taken, f"the step {wanted!r} is taken")

    async def rows(self) -> int:
        return int(await self.connection.fetchval(f"SELECT count(*) FROM {self._settings.store}.outbox"))


@pytest.fixture
async def rotation(settings: Settings) -> AsyncIterator[Rotation]:
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute("SET lock_timeout = 50")
    yield Rotation(settings, connection)
    await connection.close()


@asynccontextmanager
async def old_snapshot(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A transaction elsewhere that has not touched gatelog's tables."""
    connection = await asyncpg.connect(settings.dsn)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("SELECT pg_current_xact_id()")
            yield connection
    finally:
        await connection.close()


async def append(producer: Producer, stream: str, number: int) -> list[NewEvent]:
    events = [NewEvent(Noted(text=str(nth))) for nth in range(number)]
    await producer.append(stream, events, expected_version=ANY)
    return events


async def test_a_segment_is_emptied_when_it_is_indexed_and_not_before(
    settings: Settings, producer: Producer, reader: Reader, rotation: Rotation
) -> None:
    events = await append(producer, "Note-1", 3)
    assert await rotation.step() == "cut"
    assert await rotation.step() is None, "nothing of it is published yet"
    async with running(Relay(settings), Indexer(settings)):
        await reader.indexed([event.id for event in events])
        await rotation.until("drained")
    await rotation.until("emptied")  # it waits for snapshots of other tests too
    assert await rotation.rows() == 0
    assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3]


async def test_a_read_under_a_snapshot_that_is_too_old_is_refused_and_has_no_hole(
    settings: Settings, producer: Producer, reader: Reader, rotation: Rotation
) -> None:
    await append(producer, "Note-1", 1)
    async with old_snapshot(settings) as stranger:
        events = await append(producer, "Note-1", 2)
        assert await rotation.step() == "cut"
        async with running(Relay(settings), Indexer(settings)):
            await reader.indexed([event.id for event in events])
            await rotation.until("drained")
        read = f"SELECT version FROM {settings.store}.pending_events WHERE stream = 'Note-1'"
        assert await rotation.step() is None, "it waits for the old snapshot"
        async with stranger.transaction():
            assert [row["version"] for row in await stranger.fetch(read)] == [1]
    async with old_snapshot(settings) as stranger:
        assert await rotation.step(outbox_snapshot_age_max_s=0.0) == "emptied"
        events = await append(producer, "Note-1", 1)
        assert await rotation.step() == "cut"
        async with running(Relay(settings), Indexer(settings)):
            await reader.indexed([event.id for event in events])
            await rotation.until("drained")
        assert await rotation.step(outbox_snapshot_age_max_s=0.0) == "emptied"
        with pytest.raises(asyncpg.SnapshotTooOldError, match="older than the last rotation"):
            await stranger.fetch(read)


@pytest.mark.parametrize("step", ["cut", "drained", "emptied"])
async def test_an_append_under_a_snapshot_that_is_too_old_stores_no_id_twice(
    settings: Settings, producer: Producer, reader: Reader, rotation: Rotation, step: str
) -> None:
    async with old_snapshot(settings) as own:
        events = await append(producer, "Note-1", 1)
        async with running(Relay(settings), Indexer(settings)):
            await reader.indexed([event.id for event in events])
            await rotation.until(step, outbox_snapshot_age_max_s=0.0)
        with pytest.raises(asyncpg.SnapshotTooOldError):
            async with own.transaction():
                await producer.append("Note-2", events, expected_version=ANY, connection=own)


async def test_a_cut_that_was_broken_off_is_completed(
    settings: Settings, producer: Producer, rotation: Rotation
) -> None:
    """The sequence had been set when the transaction failed."""
    await append(producer, "Note-1", 1)
    await rotation.connection.execute(f"SELECT setval('{settings.store}.outbox_segment', 1)")
    await append(producer, "Note-1", 1)
    assert await rotation.step(outbox_segment_events=1_000) == "cut"
    assert await rotation.rows() == 2


async def test_the_outbox_is_bounded_while_a_transaction_is_open_elsewhere(
    settings: Settings, producer: Producer, reader: Reader, rotation: Rotation, long: bool
) -> None:
    segments = [f"pg_total_relation_size('{settings.store}.outbox_{number}')" for number in (0, 1)]
    size = f"SELECT {' + '.join(segments)}"
    sizes = []
    async with old_snapshot(settings), running(Relay(settings), Indexer(settings)):
        for _ in range(40 if long else 8):
            events = [await append(producer, f"Note-{number}", 100) for number in range(20)]
            await reader.indexed([events[-1][-1].id])
            await rotation.until("cut")
            await rotation.until("drained")
            assert await rotation.step(outbox_snapshot_age_max_s=0.0) == "emptied"
            sizes.append(await rotation.connection.fetchval(size))
    assert max(sizes[2:]) <= 1.5 * max(sizes[:2]), sizes


async def test_an_open_append_holds_rotation_up_and_nobody_else(
    settings: Settings, producer: Producer, rotation: Rotation
) -> None:
    own = await asyncpg.connect(settings.dsn)
    async with own.transaction():
        await producer.append("Note-1", [Noted(text="x")], expected_version=ANY, connection=own)
        assert await rotation.step() is None
        await append(producer, "Note-2", 1)
    await own.close()
    assert await rotation.step() == "cut"


async def test_an_id_is_stored_once_while_segments_change_places_all_the_time(
    settings: Settings, reader: Reader, rotation: Rotation, chance: random.Random, long: bool
) -> None:
    """The same events from two producers at once, some by load: each is answered as one and the same append."""

    async def rotate() -> None:
        for _ in range(60 if long else 8):
            await rotation.until("emptied", outbox_snapshot_age_max_s=0.0)

    async with (
        Producer.connect(settings) as one,
        Producer.connect(settings) as other,
        running(Relay(settings), Indexer(settings)),
    ):
        rotating = asyncio.create_task(rotate())
        for number in count():
            if rotating.done():
                break
            events = [NewEvent(Noted(text="x")) for _ in range(chance.randint(1, 3))]
            stream = f"Note-{number}"
            history = [HistoricEvent(stream, version, event) for version, event in enumerate(events, 1)]
            others = one.load(history) if chance.random() < 0.3 else one.append(stream, events, expected_version=ANY)
            answers = await asyncio.gather(
                others, other.append(stream, events, expected_version=ANY), return_exceptions=True
            )
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert all(isinstance(each, GatelogError) for each in refused), refused
            assert len(refused) < 2, refused
            assert await reader.version(stream) == len(events)
        await rotating
    found = await rotation.connection.fetchrow(
        f"SELECT count(DISTINCT event_id) AS ids, count(*) AS events FROM ("
        f"SELECT event_id FROM {settings.store}.outbox UNION SELECT event_id FROM {settings.store}.events) e"
    )
    assert found is not None
    assert found["ids"] == found["events"]
