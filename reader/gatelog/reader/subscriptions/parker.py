"""Parks events for a running member, and follows what others say about parked ones."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from gatelog.core import logs, postgres, services
from gatelog.core.consumer_errors import ParkedFullError
from gatelog.core.identity import Identified
from gatelog.reader.subscriptions.originals import whole
from gatelog.reader.subscriptions.parked import ParkedEvent, ParkedView
from gatelog.reader.subscriptions.parked_topic import ParkedTopic, Word, entry_of

_Found = TypeVar("_Found")

_log = logs.logger("subscription")


class Parker:
    """One member's way to the parked topic. ``view`` is what it knows."""

    def __init__(self, settings: Identified, pool: postgres.Pool, subscription: str, parked_events_max: int) -> None:
        """Connect when first needed. ``pool``: of the gate's database."""
        self._settings = settings
        self._pool = pool
        self.view = ParkedView()
        self._topic_id: str | None = None  # of the topic that ``view`` was read from
        self._subscription = subscription
        self._limit = parked_events_max
        self._reading = ParkedTopic(settings, subscription)
        self._writing = ParkedTopic(settings, subscription)
        self._read_lock = asyncio.Lock()
        self._wishes: list[tuple[Word, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Wait for what is being written, and close the connections."""
        if self._writer is not None:
            await asyncio.wait([self._writer])
        async with self._read_lock:
            await asyncio.to_thread(self._reading.close)
        await asyncio.to_thread(self._writing.close)

    async def refresh(self) -> int:
        """Learn what was written since the last time, up to now; return the offset up to which that is.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await self._through(self._refresh())

    async def _refresh(self) -> int:
        async with self._read_lock:
            news = await asyncio.to_thread(self._reading.news)
            if self._reading.topic_id != self._topic_id:
                if self._topic_id is not None:
                    _log.warning("parked.topic_gone", topic=self._reading.name, parked=len(self.view))
                    self.view = ParkedView()
                self._topic_id = self._reading.topic_id
            for event_id, offset, event in news:
                self.view.apply(event_id, offset, None if event is None else entry_of(event, offset))
            return self._reading.read_upto

    async def fetch(self, offset: int) -> ParkedEvent | None:
        """Return the parked event at an offset of the topic; None when there is a newer word on it.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return await self._through(self._fetch(offset))

    async def _fetch(self, offset: int) -> ParkedEvent | None:
        async with self._read_lock:
            return await asyncio.to_thread(self._reading.at, offset)

    async def _through(self, step: Coroutine[Any, Any, _Found]) -> _Found:
        """Wait for a step even when cancelled: its thread has the consumer, and what it read is read only once."""
        task = asyncio.create_task(step)
        try:
            return await asyncio.shield(task)
        finally:
            await services.ended(task)

    async def whole(self, event: ParkedEvent) -> ParkedEvent:
        """Return a parked event with its headers and payload. Raises as ``originals.whole``."""
        return await whole(self._settings, self._pool, self._reading.name, event)

    async def park(self, event: ParkedEvent) -> None:
        """Write a parked event, and return when every replica has it.

        Raises:
            ParkedFullError: as many are parked as may be.
            KafkaUnavailableError: no answer in time.
            TopicError: Kafka refused it.
        """
        if len(self.view) >= self._limit and self.view.get(event.event_id) is None:
            raise ParkedFullError(self._subscription, self._limit)
        await self._write((event.event_id, event))

    async def settle(self, event_id: str) -> None:
        """Write that a parked event is handled. Raises as ``park``."""
        await self._write((event_id, None))

    def _write(self, wish: Word) -> "asyncio.Future[None]":
        """What is wished for while a write is under way goes with the next one."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wishes.append((wish, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_all())
        return future

    async def _write_all(self) -> None:
        while self._wishes:
            taken, self._wishes = self._wishes, []
            try:
                offsets = await asyncio.to_thread(self._writing.write, [wish for wish, _ in taken])
            except Exception as error:  # noqa: BLE001 - it is raised where the answer is awaited
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._apply([wish for wish, _ in taken], offsets)
            for _, future in taken:
                if not future.done():
                    future.set_result(None)

    def _apply(self, wishes: Sequence[Word], offsets: Sequence[int]) -> None:
        for (event_id, event), offset in zip(wishes, offsets, strict=True):
            self.view.apply(event_id, offset, None if event is None else entry_of(event, offset))
