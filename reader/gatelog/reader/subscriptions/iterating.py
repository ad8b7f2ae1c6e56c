"""``async for``: hands out what a group's member reads, and commits what was asked past."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

from gatelog.reader.subscriptions.group_reading import Begin, GroupReading
from gatelog.reader.subscriptions.places import Batch, Offsets, Place

COMMIT_S: Final = 1.0
WAIT_S: Final = 0.25  # how soon a stop is seen when nothing arrives


class Iteration:
    """Where a loop over events stands. An event counts as handled when the next one is asked for."""

    def __init__(self) -> None:
        """Stand nowhere yet."""
        self._done: dict[Place, int] = {}  # the offset after what is handled
        self._sent: dict[Place, int] = {}
        self._current: Batch | None = None
        self.index = 0  # how many events of the current batch are handled
        self.is_current_gone = False
        self.handled = 0
        self.waited_at = time.monotonic()  # when it last asked for more

    def bind(self, reading: GroupReading) -> None:
        """See ``Handling``. Nothing is asked of it but batches."""

    def facts(self) -> dict[str, object]:
        """Return how it is doing, for the heartbeat."""
        return {"partitions": len(self._done), "handled": self.handled}

    async def batches(self, member: GroupReading, stop: asyncio.Event) -> AsyncGenerator[Batch, None]:
        """Yield batches until ``stop`` is set; whoever takes one says in ``index`` how far it is."""
        loop = asyncio.get_running_loop()
        commit_at = loop.time() + COMMIT_S
        while not stop.is_set():
            self.waited_at = time.monotonic()
            for batch in await member.next(WAIT_S):
                if batch.place not in self._done:
                    member.release(len(batch.events), batch.size_bytes)
                    continue  # revoked since the batches were taken
                self._current, self.index, self.is_current_gone = batch, 0, False
                if batch.events:
                    yield batch
                if not self.is_current_gone:
                    left = self.index < len(batch.events)
                    self._done[batch.place] = batch.offsets[self.index] if left else batch.next_offset
                self._current = None
                self.handled += self.index
                member.release(len(batch.events), batch.size_bytes)
                if stop.is_set():
                    return
            if loop.time() > commit_at:
                commit_at = loop.time() + COMMIT_S
                self._commit(member)

    def _commit(self, member: GroupReading) -> None:
        due = {place: upto for place, upto in self._done.items() if self._sent.get(place) != upto}
        self._sent.update(due)
        member.commit(due)

    async def assigned(self, begins: Mapping[Place, Begin]) -> int:
        """See ``Handling``. A loop has no parked topic."""
        self._done |= {place: begin.offset for place, begin in begins.items()}
        return 0

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        """See ``Handling``. The event at hand, and those after it in its batch, come again elsewhere."""
        current = self._current
        if current is not None and current.place in places and not self.is_current_gone:
            self.is_current_gone = True
            if self.index < len(current.events):
                self._done[current.place] = current.offsets[self.index]
        return {place: self._done.pop(place) for place in places if place in self._done}

    async def lost(self, places: Sequence[Place]) -> None:
        """See ``Handling``."""
        await self.revoked(places)
