"""The relay service: stand by, take over, say that it is alive, give way."""

import asyncio
import os
import secrets
import socket
from contextlib import suppress
from typing import Final

from gatelog.core import logs, migrations, postgres, services
from gatelog.core.errors import KafkaUnavailableError, PostgresUnavailableError, RelayFencedError
from gatelog.core.identity import Identified, identified
from gatelog.core.leases import Standstill
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.telling import told
from gatelog.producer.relay import sessions
from gatelog.producer.relay.leadership import Leadership
from gatelog.producer.relay.publisher import OutcomeUnknownError
from gatelog.producer.relay.ticks import PACKAGE

STANDBY_INTERVAL_S: Final = 0.5
BEAT_INTERVAL_S: Final = 1.0
SILENCE_MAX_S: Final = 3.0  # then the active relay is taken for frozen
RETRY_INTERVAL_S: Final = 1.0

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
        settings.kafka_properties  # noqa: B018 - refused now rather than when this one takes over
        self._sql = queries(PACKAGE, "relay.sql", settings.store)
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    async def run(self, stop: asyncio.Event) -> None:
        """Stand by or lead until ``stop`` is set. What passes is waited out; what does not is raised.

        Raises:
            LogMismatchError: Postgres and Kafka disagree about what was published.
            PublishRefusedError: Kafka will never take an event.
            TopicError: a topic cannot be made, or would lose events.
            ForeignStoreError: a topic is another store's of the same name.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
            SettingsError: Postgres or Kafka refused the credentials.
        """
        while not stop.is_set():
            try:
                await self._stand_by_and_lead(stop)
            except _PASSING as error:
                _log.warning("relay.interrupted", error=told(error), retry_in_s=RETRY_INTERVAL_S)
                await services.wait_any(RETRY_INTERVAL_S, stop)

    async def _stand_by_and_lead(self, stop: asyncio.Event) -> None:
        store = self._settings.store
        connection = await sessions.connect(self._dsn, store)
        try:
            with postgres.translated(store, self._dsn):
                await migrations.check(connection, store, PACKAGE)
                if await self._leads(connection, stop):
                    try:
                        await self._lead(await identified(self._settings, connection), connection, stop)
                    finally:
                        await self._let_go(connection)
        finally:
            connection.terminate()  # the lock goes with it, at once

    async def _leads(self, connection: postgres.Connection, stop: asyncio.Event) -> bool:
        """Wait for the lead by trying: a blocked statement would hold a snapshot, and vacuum, all the time.

        A connection without a session cannot hold the lock: the lease alone tells then.
        """
        lent, told, standstill = postgres.is_lent(connection), False, Standstill(SILENCE_MAX_S)
        while not stop.is_set():
            lease = await connection.fetchrow(self._sql["lease"])
            assert lease is not None
            is_free, beat = standstill.is_too_long(lease) or not lease["holder"], lease["beat"]
            if lent:
                leads = is_free and await connection.fetchval(self._sql["try_lease"], self._holder, beat)
            else:
                leads = await connection.fetchval(self._sql["try_lock"], self._holder)
            if leads:
                return True
            if not told:
                _log.info("relay.standing_by")
                told = True
            if not lent and is_free and (frozen := await connection.fetchval(self._sql["evict"], beat)):
                _log.warning("relay.evicted", holder=frozen, silent_for_s=SILENCE_MAX_S)
                continue
            await services.wait_any(STANDBY_INTERVAL_S, stop)
        return False

    async def _lead(self, settings: Identified, connection: postgres.Connection, stop: asyncio.Event) -> None:
        """Lead, and say so; whichever ends, ends the other."""
        leading = asyncio.create_task(Leadership(settings, connection).run(stop))
        beating = asyncio.create_task(self._beat())
        try:
            await asyncio.wait({leading, beating}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leading.cancel()
            beating.cancel()
            await services.ended(leading, beating)
        for task in (leading, beating):
            if not task.cancelled():
                task.result()

    async def _let_go(self, connection: postgres.Connection) -> None:
        """End the lease where there is no lock."""
        if postgres.is_lent(connection):
            with suppress(*postgres.FAILED):  # it would run out anyway
                await connection.execute(self._sql["end_lease"], self._holder)

    async def _beat(self) -> None:
        connection = await postgres.connect_lent(self._dsn, self._settings.store, "gatelog relay, heartbeat")
        try:
            while True:
                if not await connection.fetchval(self._sql["beat"], self._holder):
                    raise RelayFencedError("Another relay has taken the lead.")
                await asyncio.sleep(BEAT_INTERVAL_S)
        finally:
            connection.terminate()
