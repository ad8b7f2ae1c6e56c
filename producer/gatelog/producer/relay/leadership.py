"""The active relay: settle what the last one left, then tick after tick."""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final

import asyncpg

from gatelog.core import asking, histories, logs, postgres, services, tail
from gatelog.core.errors import KafkaUnavailableError, LogMismatchError
from gatelog.core.identity import Identified
from gatelog.core.shards.databases import opened
from gatelog.core.sql import queries
from gatelog.core.telling import told
from gatelog.producer.doorbell import channel_of
from gatelog.producer.relay import recovery
from gatelog.producer.relay.publisher import Publisher, TickAbortedError
from gatelog.producer.relay.ticks import PACKAGE, Tick, Ticks
from gatelog.producer.relay.topics import Topics

RETRY_INTERVAL_S: Final = 1.0
CHECK_INTERVAL_S: Final = 5.0
WATCH_INTERVAL_S: Final = 20.0
_PAUSE_S: Final = 0.02

_log = logs.logger("relay")


class Leadership:
    """From take-over to the first error."""

    def __init__(self, settings: Identified, connection: postgres.Connection) -> None:
        """Lead with ``connection``, which holds the lock."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._connection = connection
        self._sql = queries(PACKAGE, "relay.sql", settings.store)
        self._ticks = Ticks(connection, settings)
        self._topics = Topics(settings)
        self._last: dict[asking.Place, int] = {}  # position of the last record of each partition; see Publisher
        self._wake = asyncio.Event()
        self._checked: tuple[int, tail.Ends] = (-1, {})
        self._checked_at = 0.0
        self._looking: asyncio.Task[tail.Ends] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._watched_at = _now()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until ``stop`` is set; raises what ``Relay.run`` raises, and what it waits out."""
        await self._ticks.prepare()
        left = await self._ticks.take_over()
        checked = tail.ends_from_json(left["checked_offsets"])
        self._topics.partitions.update({name: len(ends) for name, ends in checked.items()})
        publisher = await asyncio.to_thread(Publisher, self._settings)
        publisher.partitions, publisher.last = self._topics.partitions, self._last
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
                self._watch()
            await self._ticks.fix()
            await self._check(at_once=True)
        finally:
            await services.ended(self._looking, self._watching)
            await asyncio.to_thread(publisher.close)

    async def _settle(self, left: asyncpg.Record) -> None:
        """Find out whether the pending tick reached Kafka. Anything but yes or no is a mismatch."""
        topics = await asyncio.to_thread(self._topics.of_store)
        await asyncio.to_thread(self._topics.check, topics)
        try:
            position, ends = await self._look(left, topics, frozenset())
        except LogMismatchError:
            if not (dismissed := await self._dismissed()):
                raise
            position, ends = await self._look(left, topics, dismissed)
        if position > left["position"]:
            self._ticks.done()
        self._last.update({place: end.position for place, end in histories.flat(ends).items()})
        await self._store_check(position, ends)
        _log.info("relay.active", epoch=left["epoch"], position=position, tick=left["tick"])

    async def _look(
        self, left: asyncpg.Record, topics: Mapping[str, int], passed_over: Collection[tail.RecordPlace]
    ) -> tuple[int, tail.Ends]:
        """Return up to which position Kafka holds what was given, and where it ends."""
        found = await asyncio.to_thread(
            recovery.look,
            self._properties,
            self._settings.source,
            topics,
            tail.ends_from_json(left["checked_offsets"]),
            left["checked_position"],
            position := recovery.certain(left),
            left["position"] + left["pending_events"],
            passed_over,
        )
        pending: list[str] = []
        if left["pending_events"] and position == left["position"] and found.beyond:  # else nothing of it is there
            tick = await self._ticks.next()
            assert tick is not None
            pending = [row["event_id"] for row in tick.rows]
        return recovery.published(found, position, pending), found.ends

    async def _dismissed(self) -> set[tail.RecordPlace]:
        """Return the records that somebody has looked at, and that are not ours."""
        async with opened(self._settings, "gatelog relay") as databases:
            found = await databases.ask_all(self._sql["dismissed"])
        return {(row["topic"], row["partition"], row["offset"]) for rows in found for row in rows}

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
                _log.warning("relay.tick_aborted", tick=tick.number, events=len(tick.rows), error=told(error))
                await asyncio.sleep(RETRY_INTERVAL_S)
        self._ticks.done()

    async def _commit(self, publisher: Publisher, tick: Tick) -> None:
        """Commit, and fetch the next slice while Kafka is at it. Not sooner: two threads would fight for the GIL."""
        committing = asyncio.create_task(asyncio.to_thread(publisher.commit, tick))
        try:
            await self._ticks.prefetch()
        finally:
            # Whatever happens here: the producer is in that thread's hands until it is through.
            await services.ended(committing)
        committing.result()

    async def _check(self, *, at_once: bool = False) -> None:
        """Compare, every 5 s, where Kafka ends with where it was seen to end, and remember it. Only between ticks.

        Kafka is asked while ticks go on: what is published from now on is past the ends that it named before. It is
        asked when nothing was published, too: what brokers lose, and what others write while we know better, is
        noticed then. And the next start has little to read.
        """
        if self._looking is None and (at_once or _now() - self._checked_at >= CHECK_INTERVAL_S):
            self._looking = asyncio.create_task(asyncio.to_thread(self._topics.compared, self._checked[1]))
        if self._looking is not None and (at_once or self._looking.done()):
            looking, self._looking = self._looking, None
            try:
                await self._store_check(self._ticks.position, await looking)
            except KafkaUnavailableError:
                if self._ticks.position != self._checked[0]:
                    raise
                self._checked_at = _now()  # who has nothing to publish does not need Kafka

    def _watch(self) -> None:
        """Look at the topics again, every 20 s, in case somebody has changed them underneath.

        Raises:
            TopicError: one would lose events, or split streams.
        """
        if self._watching is None and _now() - self._watched_at >= WATCH_INTERVAL_S:
            self._watching = asyncio.create_task(asyncio.to_thread(self._topics.look_again))
        if self._watching is not None and self._watching.done():
            watching, self._watching = self._watching, None
            self._watched_at = _now()
            with suppress(KafkaUnavailableError):  # if there is something to publish, that will tell
                watching.result()

    async def _store_check(self, position: int, ends: tail.Ends) -> None:
        ends = tail.with_positions(ends, self._last)
        if (position, ends) != self._checked:
            await self._ticks.checked(position, tail.ends_as_json(ends))
            self._checked = (position, ends)
        self._checked_at = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
