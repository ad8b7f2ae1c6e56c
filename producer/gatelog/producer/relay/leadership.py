"""The active relay: settle what the last one left, then tick after tick."""

import asyncio
from typing import Final

import asyncpg

from gatelog.core import logs, postgres, services, tail
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError
from gatelog.core.settings import Settings
from gatelog.producer.doorbell import channel_of
from gatelog.producer.relay import recovery
from gatelog.producer.relay.publisher import Publisher, TickAbortedError
from gatelog.producer.relay.ticks import Tick, Ticks
from gatelog.producer.relay.topics import Topics
from gatelog.schemas.envelope import source_of

RETRY_INTERVAL_S: Final = 1.0
CHECK_INTERVAL_S: Final = 5.0
_PAUSE_S: Final = 0.02

_log = logs.logger("relay")


class Leadership:
    """From take-over to the first error."""

    def __init__(self, settings: Settings, connection: postgres.Connection) -> None:
        """Lead with ``connection``, which holds the lock."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._connection = connection
        self._ticks = Ticks(connection, settings)
        self._topics = Topics(settings)
        self._wake = asyncio.Event()
        self._checked: recovery.Found | None = None
        self._checked_at = 0.0
        self._looking: asyncio.Task[tail.Ends] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until ``stop`` is set; raises what ``Relay.run`` raises, and what it waits out."""
        await self._ticks.prepare()
        left = await self._ticks.take_over()
        publisher = await asyncio.to_thread(Publisher, self._settings)
        try:
            await self._settle(left)
            if not postgres.is_lent(self._connection):
                await self._connection.add_listener(channel_of(self._settings.store), lambda *_: self._wake.set())
            while not stop.is_set():
                tick = await self._ticks.next()
                if tick is None:
                    await self._rest(stop)
                else:
                    await self._publish(publisher, tick)
                await self._check()
            await self._ticks.fix()
            await self._check(at_once=True)
        finally:
            if self._looking is not None:
                await asyncio.wait([self._looking])
            await asyncio.to_thread(publisher.close)

    async def _settle(self, left: asyncpg.Record) -> None:
        """Find out whether the pending tick reached Kafka. Anything but yes or no is a mismatch."""
        topics = await asyncio.to_thread(self._topics.of_store)
        await asyncio.to_thread(self._topics.check, topics)
        found = await asyncio.to_thread(
            recovery.look,
            self._properties,
            source_of(self._settings.store),
            topics,
            tail.ends_from_json(left["checked_offsets"]),
            left["checked_position"],
        )
        before, after = left["position"], left["position"] + left["pending_events"]
        if found.position not in {before, after}:
            raise LogMismatchError(
                f"Postgres has published up to position {before:,}"
                + (f", or {after:,} with its pending tick" if after > before else "")
                + f"; Kafka holds positions up to {found.position:,}. One of them was restored from an older state, "
                "or they belong to different stores. Nothing was changed."
            )
        if found.position > before:
            self._ticks.done()
        await self._store_check(found)
        _log.info("relay.active", epoch=left["epoch"], position=found.position, tick=left["tick"])

    async def _rest(self, stop: asyncio.Event) -> None:
        """Wait until something may be due, and store where the relay stands if that takes long.

        Not at once: the next tick stores it too, and would have to wait for that commit.
        """
        await services.wait_any(_PAUSE_S, stop, self._wake)
        if not self._wake.is_set():
            await self._ticks.fix()
            await services.wait_any(self._settings.poll_interval_s, stop, self._wake)
        self._wake.clear()

    async def _publish(self, publisher: Publisher, tick: Tick) -> None:
        """Publish a tick, however often it takes.

        It is stored while its records are on their way: nobody can read these before Kafka commits them.
        """
        categories = {row["category"] for row in tick.rows}
        if not self._topics.knows(categories):
            await asyncio.to_thread(self._topics.ensure, categories)
        fixed = asyncio.run_coroutine_threadsafe(self._ticks.fix(), asyncio.get_running_loop())
        while True:
            try:
                if self._ticks.has_more:
                    await asyncio.to_thread(publisher.send, tick)
                    await asyncio.wrap_future(fixed)
                    await self._commit(publisher, tick)
                else:  # in one go: a change of threads is a tenth of a small tick
                    await asyncio.to_thread(publisher.publish, tick, fixed)
                break
            except TickAbortedError as error:
                _log.warning("relay.tick_aborted", tick=tick.number, events=len(tick.rows), error=str(error))
                await asyncio.sleep(RETRY_INTERVAL_S)
        self._ticks.done()

    async def _commit(self, publisher: Publisher, tick: Tick) -> None:
        """Commit, and fetch the next slice while Kafka is at it. Not sooner: two threads would fight for the GIL."""
        committing = asyncio.create_task(asyncio.to_thread(publisher.commit, tick))
        try:
            await self._ticks.prefetch()
        finally:
            # Whatever happens here: the producer is in that thread's hands until it is through.
            await asyncio.wait([committing])
        committing.result()

    async def _check(self, *, at_once: bool = False) -> None:
        """Compare where Kafka ends with where it was seen to end, every 5 s, whether or not anything was published.

        The ends are remembered, so that the next start has little to read. Kafka is asked while ticks go on: what is
        published from now on is past the ends that it named before.
        """
        if self._looking is None and (at_once or _now() - self._checked_at >= CHECK_INTERVAL_S):
            assert self._checked is not None
            self._looking = asyncio.create_task(asyncio.to_thread(self._topics.compared, self._checked.ends))
        if self._looking is not None and (at_once or self._looking.done()):
            looking, self._looking = self._looking, None
            try:
                ends = await looking
            except KafkaUnavailableError as error:  # if there is something to publish, that will tell
                self._checked_at = _now()
                _log.warning("relay.not_checked", error=str(error), retry_in_s=CHECK_INTERVAL_S)
            else:
                await self._store_check(recovery.Found(self._ticks.position, ends))

    async def _store_check(self, found: recovery.Found) -> None:
        self._checked_at = _now()
        if found != self._checked:
            await self._ticks.checked(found.position, tail.ends_as_json(found.ends))
            self._checked = found


def _now() -> float:
    return asyncio.get_running_loop().time()
