"""The relay service: stand by, take over, settle what was pending, then tick after tick."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

from gatelog.core import logs, migrations, postgres, services
from gatelog.core.domain import category_of, topic_of
from gatelog.core.errors import (
    KafkaUnavailableError,
    LogMismatchError,
    PostgresUnavailableError,
    RelayFencedError,
)
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.producer.doorbell import channel_of
from gatelog.producer.relay import recovery
from gatelog.producer.relay.publisher import OutcomeUnknownError, OutgoingRecord, Publisher, TickAbortedError
from gatelog.producer.relay.topics import Topics
from gatelog.schemas.envelope import headers_of, source_of, wire_value

STANDBY_INTERVAL_S: Final = 0.5
RETRY_INTERVAL_S: Final = 1.0
CHECK_INTERVAL_S: Final = 5.0
_PACKAGE: Final = "gatelog.producer"
_TAKEN_OVER: Final = "GL001"  # raised by the SQL function next_tick
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_PASSING: Final = (
    PostgresUnavailableError,
    KafkaUnavailableError,
    OutcomeUnknownError,
    RelayFencedError,
)

_log = logs.logger("relay")


class Relay:
    """Publishes the outbox to Kafka. Any number may run: one is active, the others stand by."""

    name = "relay"

    def __init__(self, settings: Settings) -> None:
        """Check the settings; nothing is opened yet.

        Raises:
            SettingsError: Postgres or Kafka is not configured.
        """
        self._settings = settings
        self._dsn = settings.dsn
        self._properties = settings.kafka_properties
        self._sql = queries(_PACKAGE, "relay.sql", settings.store)

    async def run(self, stop: asyncio.Event) -> None:
        """Stand by or lead until ``stop`` is set. What passes is waited out; what does not is raised.

        Raises:
            LogMismatchError: Postgres and Kafka disagree about what was published.
            PublishRefusedError: Kafka will never take an event.
            TopicError: a topic cannot be made.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
        """
        while not stop.is_set():
            try:
                await self._stand_by_and_lead(stop)
            except _PASSING as error:
                _log.warning("relay.interrupted", error=str(error), retry_in_s=RETRY_INTERVAL_S)
                await services.wait_any(RETRY_INTERVAL_S, stop)

    async def _stand_by_and_lead(self, stop: asyncio.Event) -> None:
        store = self._settings.store
        connection = await postgres.connect(self._dsn, store, "gatelog relay")
        try:
            with postgres.translated(store, self._dsn):
                # The snapshots of a tick need each statement to have its own.
                await connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
                await migrations.check(connection, store, _PACKAGE)
                if await self._locked(connection, stop):
                    await _Leadership(self._settings, self._sql, connection).run(stop)
        finally:
            connection.terminate()  # the lock goes with it, at once

    async def _locked(self, connection: postgres.Connection, stop: asyncio.Event) -> bool:
        """Wait for the lock by trying: a blocked statement would hold a snapshot, and vacuum, all the time."""
        told = False
        while not stop.is_set():
            if await connection.fetchval(self._sql["try_lock"]):
                return True
            if not told:
                _log.info("relay.standing_by")
                told = True
            await services.wait_any(STANDBY_INTERVAL_S, stop)
        return False


class _Leadership:
    """The active relay, from take-over to the first error."""

    def __init__(self, settings: Settings, sql: dict[str, str], connection: postgres.Connection) -> None:
        self._settings = settings
        self._sql = sql
        self._connection = connection
        self._properties = settings.kafka_properties
        self._source = source_of(settings.store).encode()
        self._topics = Topics(settings)
        self._wake = asyncio.Event()
        self._epoch = 0
        self._done_tick = 0
        self._position = 0
        self._checked_position = -1
        self._checked_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        state = await self._connection.fetchrow(self._sql["take_over"])
        assert state is not None
        self._epoch = state["epoch"]
        publisher = await asyncio.to_thread(Publisher, self._settings)
        try:
            await self._settle(state)
            await self._connection.add_listener(channel_of(self._settings.store), lambda *_: self._wake.set())
            while not stop.is_set():
                if not await self.run_once(publisher):
                    await services.wait_any(self._settings.poll_interval_s, stop, self._wake)
                    self._wake.clear()
                if asyncio.get_running_loop().time() - self._checked_at >= CHECK_INTERVAL_S:
                    await self._check()
            await self._check()
        finally:
            await asyncio.to_thread(publisher.close)

    async def _settle(self, state: asyncpg.Record) -> None:
        """Find out whether the pending tick reached Kafka. Anything but yes or no is a mismatch."""
        topics = await asyncio.to_thread(self._topics.of_store)
        found = await asyncio.to_thread(
            recovery.look,
            self._properties,
            self._source.decode(),
            topics,
            json.loads(state["checked_offsets"]),
            state["checked_position"],
        )
        before, after = state["position"], state["position"] + state["pending_events"]
        if found.position not in {before, after}:
            raise LogMismatchError(
                f"Postgres has published up to position {before:,}"
                + (f", or {after:,} with its pending tick" if after > before else "")
                + f"; Kafka holds positions up to {found.position:,}. One of them was restored from an older state, "
                "or they belong to different stores. Nothing was changed."
            )
        self._position = found.position
        self._done_tick = state["tick"] if found.position == after else 0
        await self._store_check(found.position, found.ends)
        _log.info("relay.active", epoch=self._epoch, position=found.position, tick=state["tick"])

    async def run_once(self, publisher: Publisher) -> bool:
        """Publish the next tick; return whether there was one."""
        rows = await self._next_tick()
        if not rows:
            return False
        while True:
            try:
                await asyncio.to_thread(self._publish, publisher, rows)
                break
            except TickAbortedError as error:
                _log.warning("relay.tick_aborted", tick=rows[0]["tick"], events=len(rows), error=str(error))
                await asyncio.sleep(RETRY_INTERVAL_S)
        self._done_tick = rows[0]["tick"]
        self._position = rows[-1]["position"]
        return True

    async def _next_tick(self) -> Sequence[asyncpg.Record]:
        settings = self._settings
        try:
            return await self._connection.fetch(
                self._sql["next_tick"],
                self._epoch,
                self._done_tick,
                settings.tick_events_max,
                settings.tick_bytes_max,
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate == _TAKEN_OVER:
                raise RelayFencedError(str(error)) from error
            raise

    def _publish(self, publisher: Publisher, rows: Sequence[asyncpg.Record]) -> None:
        self._topics.ensure({category_of(row["stream"]) for row in rows})
        publisher.publish([self._record(row) for row in rows])

    def _record(self, row: asyncpg.Record) -> OutgoingRecord:
        headers = headers_of(
            self._source,
            event_id=row["event_id"],
            event_type=row["type"],
            stream=row["stream"],
            version=row["version"],
            position=row["position"],
            recorded_at=row["recorded_at"],
            correlation_id=row["correlation_id"],
            causation_id=row["causation_id"],
            traceparent=row["traceparent"],
            metadata=row["metadata"],
        )
        return OutgoingRecord(
            topic_of(self._settings.store, category_of(row["stream"])),
            row["stream"],
            wire_value(row["schema_id"], row["data"]),
            headers,
            max(0, int((row["recorded_at"] - _EPOCH).total_seconds() * 1000)),  # Kafka's time begins in 1970
            row["version"],
            row["event_id"],
        )

    async def _check(self) -> None:
        """Remember where Kafka ends, so that the next start has little to read. Only between ticks."""
        if self._position == self._checked_position:
            return
        topics = await asyncio.to_thread(self._topics.of_store)
        ends = await asyncio.to_thread(recovery.ends_of, self._properties, topics)
        await self._store_check(self._position, ends)

    async def _store_check(self, position: int, ends: recovery.Offsets) -> None:
        await self._connection.execute(self._sql["checked"], self._epoch, position, json.dumps(ends))
        self._checked_position = position
        self._checked_at = asyncio.get_running_loop().time()
