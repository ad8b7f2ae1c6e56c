"""The producer: checks and encodes events, and passes them through the gate in batches."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final

import asyncpg

from gatelog.core import migrations, postgres
from gatelog.core.domain import ExpectedVersion, check_stream_id
from gatelog.core.errors import AppendTimeoutError, InvalidInputError, WaitTimeoutError
from gatelog.core.settings import Settings
from gatelog.producer.batcher import Batcher
from gatelog.producer.doorbell import Doorbell
from gatelog.producer.encoding import check_count, encode_event, encode_events
from gatelog.producer.gate import Appended, Gate, HistoricWrite, StreamWrite, Writes, check_bytes, check_expected
from gatelog.producer.loading import check_history, chunks
from gatelog.producer.postgres_gate import PACKAGE, PostgresGate, prepare_session
from gatelog.schemas.codec import Codec
from gatelog.schemas.event import Event, NewEvent, StreamClosed
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registries import registry_of
from gatelog.schemas.registry import Registry

_WAIT_FIRST_S: Final = 0.002
_WAIT_MAX_S: Final = 0.1
_LOAD_TURN_EVENTS: Final = 200  # that are encoded before a load lets other tasks have the event loop


@dataclass(frozen=True, slots=True)
class StreamAppend:
    """The part of an append to several streams that goes to one of them."""

    stream: str
    events: Sequence[Event | NewEvent]
    expected_version: ExpectedVersion


@dataclass(frozen=True, slots=True)
class HistoricEvent:
    """An event that happened elsewhere before: its stream and version are given, and its time may be."""

    stream: str
    version: int
    event: Event | NewEvent
    recorded_at: datetime | None = None


_PARTS_OF_HISTORY: Final = attrgetter("stream", "version", "event", "recorded_at")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load did: events stored by it, and events that were stored before."""

    new: int
    known: int


class Producer:
    """Appends events to streams. Make one a process with ``connect``; it is safe for concurrent use."""

    def __init__(self, settings: Settings, codec: Codec, gate: Gate) -> None:
        """Use ``connect`` instead."""
        self._settings = settings
        self._codec = codec
        self._gate = gate
        self._batcher = Batcher(
            gate,
            batches_max=settings.append_connections,
            batch_events_max=settings.batch_events_max,
            timeout_s=settings.append_timeout_s,
        )

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings | None = None) -> AsyncIterator["Producer"]:
        """Yield a producer; at the end, appends under way are finished. After an exception, they are given up.

        Raises:
            SettingsError: no Postgres is configured, or it refused the user.
            PostgresUnavailableError: no answer.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
        """
        settings = settings or Settings.load()
        size = settings.append_connections + 2  # batches, one for schemas, one for the doorbell
        registry: Registry | None = None

        async def prepare(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
            await prepare_session(connection)
            if isinstance(registry, PostgresRegistry):
                await registry.follow(connection)

        async with postgres.pool(settings.dsn, settings.store, "gatelog producer", size, prepare) as pool:
            with postgres.translated(settings.store, settings.dsn):
                async with pool.acquire() as connection:
                    await migrations.check(connection, settings.store, PACKAGE)
                    registry = registry_of(settings, pool)
                    if isinstance(registry, PostgresRegistry):
                        await registry.follow(connection)
            codec = Codec(registry, register=settings.register_schemas)
            async with Doorbell(pool, settings.store) as doorbell:
                gate = PostgresGate(settings, pool, doorbell)
                producer = cls(settings, codec, gate)
                try:
                    yield producer
                    await producer._batcher.drain()
                except BaseException:
                    producer._batcher.abandon()
                    raise
                await gate.close()

    async def append(
        self,
        stream: str,
        events: Sequence[Event | NewEvent],
        *,
        expected_version: ExpectedVersion,
        connection: postgres.Connection | None = None,
    ) -> Appended:
        """Append events to a stream, all or none, if the stream is at ``expected_version``.

        ``expected_version``: the number of events that the stream has, or ``NO_STREAM``, ``STREAM_EXISTS``,
        ``ANY``. An append repeated with the same event ids (see ``NewEvent``) answers as the first time.

        ``connection``: an asyncpg connection to the same database with a transaction open. The events are
        stored when it commits, together with whatever else it did; until then the stream takes no other append.

        Raises:
            ConflictError: the stream is at another version.
            StreamClosedError: the stream takes no more events.
            EventIdReusedError: some ids are stored, but not all of them as this append.
            InvalidStreamIdError, InvalidEventError, InvalidInputError: refused before anything was sent.
            BacklogFullError: the outbox is at its bound (retryable).
            AppendTimeoutError: no answer in ``append_timeout_s`` (retryable with ``error.events``).
            PostgresUnavailableError: no answer, or no room on its disk (retryable: the same ids are stored once).
            asyncpg.PostgresError: with ``connection``, Postgres failed the statement, and your transaction with it:
                it had failed before, could not be serialised, or the id was stored by another one meanwhile.
        """
        new = [event if isinstance(event, NewEvent) else NewEvent(event) for event in events]
        if unknown := self._unknown(new):
            await self.prepare(*unknown)
        write = self._write(stream, new, expected_version)
        (appended,) = await self._pass((write,), new, connection)
        return appended

    async def append_streams(
        self, appends: Sequence[StreamAppend], *, connection: postgres.Connection | None = None
    ) -> list[Appended]:
        """Append to several streams, all of it or nothing. Each has its own expected version; see ``append``.

        Raises:
            ConflictError: one of the streams is at another version; it is the one named.
            InvalidInputError: no streams, one of them twice, or over ``append_events_max`` events in all of them.
        """
        if not appends:
            raise InvalidInputError("An append to several streams names none.")
        if len({each.stream for each in appends}) < len(appends):
            raise InvalidInputError("An append to several streams names one of them twice: put its events together.")
        new = [[e if isinstance(e, NewEvent) else NewEvent(e) for e in each.events] for each in appends]
        check_count(self._settings, f"{appends[0].stream!r} and others", sum(map(len, new)))
        if len({event.id for events in new for event in events}) < sum(map(len, new)):
            raise InvalidInputError(f"Append to {appends[0].stream!r} and others has an event id twice.")
        if unknown := self._unknown(event for events in new for event in events):
            await self.prepare(*unknown)
        writes = [
            self._write(each.stream, events, each.expected_version) for each, events in zip(appends, new, strict=True)
        ]
        return await self._pass(tuple(writes), [event for events in new for event in events], connection)

    async def close_stream(
        self,
        stream: str,
        *,
        expected_version: ExpectedVersion,
        reason: str = "",
        connection: postgres.Connection | None = None,
    ) -> Appended:
        """Append a last event, ``StreamClosed``: from now on the stream takes no others. Its events stay readable.

        Raises:
            StreamClosedError: it is closed already.
            ConflictError: the stream is at another version.
        """
        new = [NewEvent(StreamClosed(reason=reason))]
        await self.prepare(StreamClosed)
        write = self._write(stream, new, expected_version, closes=True)
        (appended,) = await self._pass((write,), new, connection)
        return appended

    async def load(self, history: Iterable[HistoricEvent] | AsyncIterable[HistoricEvent]) -> Loaded:
        """Import history: many times faster than appends, in chunks that are stored as a whole.

        Each stream's events come in version order, without gaps, from where the stream ends. Give events ids of
        their own (see ``NewEvent``): then a load that was cut off can be run again from the start.

        Raises:
            ConflictError: a stream does not end where its first event belongs. Chunks before it are stored.
            BacklogFullError: the outbox is at its bound; load again when the relay has caught up.
            WaitTimeoutError: another transaction held a stream for ``append_timeout_s``; load again (retryable).
            InvalidEventError, InvalidInputError, InvalidStreamIdError, EventIdReusedError: as for appends.
        """
        new = known = 0
        storing: asyncio.Task[int] | None = None
        try:
            async for events in chunks(history, self._settings.load_chunk_events):
                chunk = await self._historic(events)
                if storing is not None:  # the next chunk was encoded while Postgres took this one
                    known += await storing
                storing = asyncio.create_task(self._gate.load(chunk))
                new += len(chunk)
            if storing is not None:
                known += await storing
        finally:
            if storing is not None:
                await asyncio.gather(storing, return_exceptions=True)
        return Loaded(new - known, known)

    async def published(self, *appended: Appended, timeout: float = 30.0) -> None:
        """Wait until Kafka holds the events of these appends. ``Reader.indexed`` waits for the index.

        Raises:
            WaitTimeoutError: not within ``timeout`` seconds; is a relay running?
            PostgresUnavailableError: no answer.
        """
        event_ids = [event_id for each in appended for event_id in each.event_ids]
        left, pause_s = len(event_ids), _WAIT_FIRST_S
        try:
            async with asyncio.timeout(timeout):
                while left := await self._gate.unpublished(event_ids):
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, _WAIT_MAX_S)
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"{left} of {len(event_ids)} events are not published after {timeout:g} s. "
                "Is a relay running? See `gatelog status`."
            ) from error

    async def prepare(self, *models: type[Event]) -> None:
        """Find or register the schemas of models now, and not at their first append.

        Raises:
            SchemaError: a model has no Avro schema, or it is not registered and ``register_schemas`` is off.
            InvalidInputError: it is no model of an event.
        """
        for model in models:
            if not issubclass(model, Event):
                raise InvalidInputError(f"{model.__name__} is no event: derive a class from gatelog.schemas.Event.")
            await self._codec.learn(model)

    async def _historic(self, history: Sequence[HistoricEvent]) -> list[HistoricWrite]:
        """Check and encode a chunk of history, and let the chunk before it get on meanwhile."""
        writes: list[HistoricWrite] = []
        now = datetime.now(UTC)
        for stream, version, given, recorded_at in map(_PARTS_OF_HISTORY, history):
            event = given if isinstance(given, NewEvent) else NewEvent(given)
            check_stream_id(stream)
            check_history(stream, version, recorded_at)
            if not self._codec.knows(type(event.data)):
                await self.prepare(type(event.data))
            encoded = encode_event(self._codec, self._settings, stream, event)
            writes.append(HistoricWrite(stream, version, recorded_at or now, *encoded))
            if len(writes) % _LOAD_TURN_EVENTS == 0:
                await asyncio.sleep(0)
        return writes

    def _write(
        self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion, *, closes: bool = False
    ) -> StreamWrite:
        check_stream_id(stream)
        check_expected(stream, expected)
        return StreamWrite(stream, expected, encode_events(self._codec, self._settings, stream, events), closes)

    def _unknown(self, events: Iterable[NewEvent]) -> list[type[Event]]:
        """Models whose schema is not known yet: ``prepare`` asks for it, once."""
        return [type(event.data) for event in events if not self._codec.knows(type(event.data))]

    async def _pass(
        self, writes: Writes, events: Sequence[NewEvent], connection: postgres.Connection | None
    ) -> list[Appended]:
        check_bytes(writes)
        if connection is not None:
            return await self._within(connection, writes)
        try:
            return await self._batcher.submit(writes)
        except TimeoutError as error:
            raise AppendTimeoutError(writes[0].stream, tuple(events), self._settings.append_timeout_s) from error

    async def _within(self, connection: postgres.Connection, writes: Writes) -> list[Appended]:
        if not connection.is_in_transaction():
            raise InvalidInputError(
                f"Append to {writes[0].stream!r}: the connection given has no transaction open. "
                "Open one with `async with connection.transaction():`, or leave the connection out."
            )
        with postgres.translated(self._settings.store, self._settings.dsn):
            return await self._gate.append_within(connection, writes)
