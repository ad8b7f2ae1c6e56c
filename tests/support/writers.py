"""Writers that repeat each append until it is answered, and what they were told: the judge of servers that fail."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from gatelog.core.errors import GatelogError
from gatelog.producer import ANY, Appended, Producer, StreamAppend
from gatelog.reader import Reader
from gatelog.schemas import NewEvent
from support.models import Noted

HOT = 5  # streams that all of them write to


@dataclass
class Writers:
    """Append to streams of their own at exact versions, and to hot ones, two at once, until they are told to stop."""

    producer: Producer
    chance: random.Random
    characters: int = 1  # of an event
    pause_s: float = 0.0  # of each writer after each append
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: dict[tuple[str, int], UUID] = field(default_factory=dict)
    errors: list[GatelogError] = field(default_factory=list)  # that callers saw: each was followed by a repetition

    @asynccontextmanager
    async def writing(self, writers: int) -> AsyncIterator[None]:
        """Write until the block ends, and then until everything that was sent has its answer."""
        async with asyncio.TaskGroup() as work:
            for number in range(writers):
                work.create_task(self._write(f"Own-{number}"))
                work.create_task(self._write_to_two())
            try:
                yield
            finally:
                self.stop.set()

    async def _write(self, stream: str) -> None:
        version = 0
        while not self.stop.is_set():
            append = StreamAppend(stream, self._events(), version)
            (done,) = await self._until_answered([append])
            assert done.first_version == version + 1
            version = done.version

    async def _write_to_two(self) -> None:
        while not self.stop.is_set():
            streams = self.chance.sample(range(HOT), 2)
            await self._until_answered([StreamAppend(f"Hot-{stream}", self._events(), ANY) for stream in streams])

    def _events(self) -> list[NewEvent]:
        return [NewEvent(Noted(text="x" * self.characters)) for _ in range(self.chance.randint(1, 3))]

    async def _until_answered(self, appends: Sequence[StreamAppend]) -> list[Appended]:
        """What an error leaves open, the same ids tell: half an append would be an error that is not retryable."""
        while True:
            try:
                answers = await self.producer.append_streams(appends)
            except GatelogError as error:
                if not error.retryable:
                    raise
                self.errors.append(error)
            else:
                for done in answers:
                    for version, event_id in enumerate(done.event_ids, done.first_version):
                        self.acknowledged[done.stream, version] = event_id
                await asyncio.sleep(self.pause_s)
                return answers

    async def judge(self, reader: Reader) -> None:
        """The streams hold what was acknowledged, in its place, and nothing else."""
        found: dict[tuple[str, int], UUID] = {}
        for stream in {stream for stream, _ in self.acknowledged}:
            events = [event async for event in reader.stream(stream)]
            assert [event.version for event in events] == list(range(1, len(events) + 1))
            found |= {(stream, event.version): event.id for event in events}
        assert found == self.acknowledged
        assert len(set(found.values())) == len(found), "an event is stored twice"
