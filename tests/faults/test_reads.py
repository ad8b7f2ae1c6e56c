"""Reads of a stream while relay and indexer are away, are killed, and the outbox takes turns."""

import asyncio
from decimal import Decimal
from functools import partial
from pathlib import Path

import asyncpg
from support.models import Noted
from support.processes import background, environment
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader, State
from gatelog.schemas import RecordedEvent

STREAM = "Note-1"


class Total(State):
    total: Decimal = Decimal(0)

    def apply(self, event: RecordedEvent) -> None:
        assert isinstance(event.data, Noted)
        self.total += int(event.data.text)


class Writer:
    """Appends one event after the other, and knows what was acknowledged."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.acknowledged = 0
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while not self.stop.is_set():
            events = [Noted(text=str(self.acknowledged + nth)) for nth in range(2)]
            await self._producer.append(STREAM, events, expected_version=self.acknowledged)
            self.acknowledged += 2
            await asyncio.sleep(0.005)

    async def has(self, count: int) -> bool:
        return self.acknowledged >= count


async def read_on(reader: Reader, writer: Writer) -> int:
    """Read in every way, and find what was acknowledged before, whole."""
    rounds = 0
    while not writer.stop.is_set():
        await asyncio.sleep(0)
        if not (least := writer.acknowledged):
            continue
        found = [int(event.as_dict()["text"]) async for event in reader.stream(STREAM)]
        assert found == list(range(len(found)))
        assert len(found) >= least
        backward = [event.version async for event in reader.stream(STREAM, backward=True, limit=150)]
        assert backward == list(range(backward[0], max(0, backward[0] - 150), -1))
        last = await reader.last(STREAM)
        assert last is not None
        assert backward[0] >= least
        assert last.version >= backward[0]
        state = await reader.fold(STREAM, Total, snapshot_every=50)
        assert state.stream_version >= last.version
        assert state.total == state.stream_version * (state.stream_version - 1) // 2
        assert await reader.version(STREAM) >= state.stream_version
        rounds += 1
    return rounds


async def test_acknowledged_appends_are_read_whoever_dies(settings: Settings, tmp_path: Path, long: bool) -> None:
    env = environment(settings, GATELOG_OUTBOX_SEGMENT_EVENTS="50", GATELOG_OUTBOX_SNAPSHOT_AGE_MAX_S="0")
    small_pages = settings.model_copy(update={"read_rows_max": 40})
    look = await asyncpg.connect(settings.dsn)

    async def emptied_beyond(count: int) -> bool:
        return bool(await look.fetchval(f"SELECT last_value > {count} FROM {settings.store}.outbox_emptied"))

    async with Producer.connect(settings) as producer, Reader.connect(small_pages) as reader:
        writer = Writer(producer)
        writing = asyncio.create_task(writer.run())
        reading = [asyncio.create_task(read_on(reader, writer)) for _ in range(3)]
        try:
            await until(partial(writer.has, 100), "appends go on with nothing running")
            for round_ in range(10 if long else 2):
                with background(["run"], env, tmp_path / f"run-{round_}.log") as process:
                    before = await look.fetchval(f"SELECT last_value FROM {settings.store}.outbox_emptied")
                    await until(partial(emptied_beyond, before), "the outbox was emptied", timeout=120)
                    process.kill()
                await until(partial(writer.has, writer.acknowledged + 60), "appends go on after the kill")
                assert not any(task.done() for task in [writing, *reading])
        finally:
            writer.stop.set()
            await look.close()
        await writing
        assert all(rounds > 2 for rounds in await asyncio.gather(*reading))
        assert await reader.version(STREAM) == writer.acknowledged
