"""Reads that go on while something is done to the index, and judge what they see."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from gatelog.core.settings import Settings
from gatelog.reader import Reader
from support.waiting import until

PAUSE_S = 0.02  # between reads: the others want to work too


class Watch:
    """Reads streams and the log in a loop, each on a connection of its own, and checks what it sees."""

    def __init__(self, settings: Settings, streams: dict[str, int]) -> None:
        self._settings = settings
        self._streams = streams  # at least so many events each, growing
        self.reads = 0

    async def stream(self) -> None:
        async with Reader.connect(self._settings) as reader:
            while True:
                for stream, least in list(self._streams.items()):
                    versions = [event.version async for event in reader.stream(stream)]
                    assert versions == list(range(1, len(versions) + 1)), f"a hole or a double in {stream}"
                    assert len(versions) >= least, f"{stream} lacks what was acknowledged"
                    self.reads += 1
                    await asyncio.sleep(PAUSE_S)

    async def log(self) -> None:
        frontier = 0
        async with Reader.connect(self._settings) as reader:
            while True:
                now = await reader.frontier()
                assert now >= frontier, "the frontier went back"
                frontier = now
                positions = [event.position async for event in reader.all(after=max(0, frontier - 200))]
                first = max(0, frontier - 200) + 1
                assert positions == list(range(first, first + len(positions))), "a hole or a double in the log"
                assert len(positions) >= frontier - first + 1
                self.reads += 1
                await asyncio.sleep(PAUSE_S)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each) for each in (self.stream(), self.log(), self.stream())]
        try:
            yield
            await self.goes_on(tasks)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(result, asyncio.CancelledError):
                    raise result  # type: ignore[misc] # a task that ended has failed

    async def goes_on(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """A few reads more: after the switch, too."""
        upto = self.reads + 12

        async def are_read() -> bool:
            return self.reads >= upto or any(task.done() for task in tasks)

        await until(are_read, "reads go on")
