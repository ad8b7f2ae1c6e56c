"""The producer: checks and encodes events, and passes them through the gate in batches."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import orjson

from gatelog.core import logs, migrations, postgres
from gatelog.core.domain import ExpectedVersion, check_stream_id
from gatelog.core.errors import (
    AppendTimeoutError,
    EventIdReusedError,
    InvalidEventError,
    InvalidInputError,
    PostgresUnavailableError,
)
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.producer import gate
from gatelog.producer.batcher import Batcher, Verdict
from gatelog.producer.doorbell import Doorbell
from gatelog.producer.gate import Appended, EncodedEvent, StreamWrite
from gatelog.schemas.codec import Codec
from gatelog.schemas.event import Event, NewEvent
from gatelog.schemas.registry import PostgresRegistry

PACKAGE: Final = "gatelog.producer"
_RETRY_DELAY_S: Final = 0.2
_RACE_ATTEMPTS_MAX: Final = 3

_log = logs.logger("producer")


class Producer:
    """Appends events to streams. Make one a process with ``connect``; it is safe for concurrent use."""

    def __init__(self, settings: Settings, pool: postgres.Pool, codec: Codec, doorbell: Doorbell) -> None:
        """Use ``connect`` instead."""
        self._settings = settings
        self._pool = pool
        self._codec = codec
        self._doorbell = doorbell
        self._sql = queries(PACKAGE, "append.sql", settings.store)["append"]
        self._batcher = Batcher(
            self._run, batches_max=settings.append_connections, batch_events_max=settings.batch_events_max
        )

    @classmethod
    @asynccontextmanager
    async def connect(cls, settings: Settings | None = None) -> AsyncIterator["Producer"]:
        """Yield a producer; at the end, appends under way are finished.

        Raises:
            SettingsError: no Postgres is configured, or it refused the user.
            PostgresUnavailableError: no answer.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
        """
        settings = settings or Settings.load()
        size = settings.append_connections + 2  # batches, one for schemas, one for the doorbell
        async with postgres.pool(settings.dsn, settings.store, "gatelog producer", size) as pool:
            async with pool.acquire() as connection:
                await migrations.check(connection, settings.store, PACKAGE)
            codec = Codec(PostgresRegistry(pool, settings.store), register=settings.register_schemas)
            async with Doorbell(pool, settings.store) as doorbell:
                producer = cls(settings, pool, codec, doorbell)
                yield producer
                await producer._batcher.drain()

    async def append(
        self, stream: str, events: Sequence[Event | NewEvent], *, expected_version: ExpectedVersion
    ) -> Appended:
        """Append events to a stream, all or none, if the stream is at ``expected_version``.

        ``expected_version``: the number of events that the stream has, or ``NO_STREAM``, ``STREAM_EXISTS``,
        ``ANY``. An append repeated with the same event ids (see ``NewEvent``) answers as the first time.

        Raises:
            ConflictError: the stream is at another version.
            EventIdReusedError: some ids are stored, but not all of them as this append.
            InvalidStreamIdError, InvalidEventError, InvalidInputError: refused before anything was sent.
            BacklogFullError: the outbox is at its bound (retryable).
            AppendTimeoutError: no answer in ``append_timeout_s`` (retryable with ``error.events``).
        """
        new = [event if isinstance(event, NewEvent) else NewEvent(event) for event in events]
        gate.expected_code(expected_version)
        write = StreamWrite(check_stream_id(stream), expected_version, await self._encode(stream, new))
        try:
            async with asyncio.timeout(self._settings.append_timeout_s):
                (appended,) = await self._batcher.submit((write,))
        except TimeoutError as error:
            raise AppendTimeoutError(stream, tuple(new), self._settings.append_timeout_s) from error
        return appended

    async def prepare(self, *models: type[Event]) -> None:
        """Find or register the schemas of models now, and not at their first append.

        Raises:
            SchemaError: a model has no Avro schema, or it is not registered and ``register_schemas`` is off.
        """
        for model in models:
            if not self._codec.knows(model):
                with postgres.translated(self._settings.store, self._settings.dsn):
                    await self._codec.learn(model)

    async def _encode(self, stream: str, events: Sequence[NewEvent]) -> tuple[EncodedEvent, ...]:
        settings = self._settings
        if not events:
            raise InvalidInputError(f"Append to {stream!r} has no events.")
        if len(events) > settings.append_events_max:
            raise InvalidInputError(
                f"Append to {stream!r} has {len(events):,} events; {settings.append_events_max:,} are allowed "
                "(append_events_max)."
            )
        if len({event.id for event in events}) < len(events):
            raise InvalidInputError(f"Append to {stream!r} has an event id twice.")
        await self.prepare(*{type(event.data) for event in events})
        return tuple(self._encode_one(stream, event) for event in events)

    def _encode_one(self, stream: str, event: NewEvent) -> EncodedEvent:
        schema_id, data = self._codec.encode(event.data, stream, self._settings.event_bytes_max)
        return EncodedEvent(
            event.id,
            event.data.event_type,
            schema_id,
            data,
            event.correlation_id,
            event.causation_id,
            _checked_traceparent(stream, event),
            _metadata_json(stream, event),
        )

    async def _run(self, batch: Sequence[Sequence[StreamWrite]]) -> Sequence[Verdict]:
        """Pass a batch through the gate; a batch that fails as a whole is tried append by append."""
        try:
            verdicts = await self._until_answered(batch)
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                return [await self._explain_or_retry(batch[0], error)]
            _log.info("append.batch_split", appends=len(batch), error=type(error).__name__)
            return [(await self._run([writes]))[0] for writes in batch]
        self._doorbell.ring()
        return verdicts

    async def _until_answered(self, batch: Sequence[Sequence[StreamWrite]]) -> Sequence[Verdict]:
        """Repeat a batch whose connection died, until an answer comes: the event ids make that safe.

        Callers give up by their own timeouts; a batch that nobody waits for any more is still bounded by it.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.append_timeout_s
        while True:
            try:
                with postgres.translated(self._settings.store, self._settings.dsn):
                    async with self._pool.acquire() as connection:
                        return await gate.append(
                            connection,
                            self._sql,
                            batch,
                            self._settings.outbox_events_max,
                            self._settings.store,
                        )
            except PostgresUnavailableError as error:
                if asyncio.get_running_loop().time() + _RETRY_DELAY_S > deadline:
                    raise
                _log.warning("append.retry", appends=len(batch), error=str(error))
                await asyncio.sleep(_RETRY_DELAY_S)

    async def _explain_or_retry(self, writes: Sequence[StreamWrite], error: asyncpg.PostgresError) -> Verdict:
        """A unique violation means that another process stored the same ids meanwhile: ask the gate again."""
        retry = _retry_alone(error)
        for _ in range(_RACE_ATTEMPTS_MAX if retry else 0):
            try:
                return (await self._until_answered([writes]))[0]
            except asyncpg.PostgresError as again:
                if not _retry_alone(again):
                    error = again
                    break
        first = writes[0]
        if isinstance(error, asyncpg.UniqueViolationError):
            return EventIdReusedError(first.stream, 1, len(first.events), first.events[0].id)
        if isinstance(error, asyncpg.DataError):
            return InvalidEventError(first.stream, first.events[0].type, str(error))
        raise error


def _retry_alone(error: asyncpg.PostgresError) -> bool:
    return isinstance(
        error, (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
    )


def _metadata_json(stream: str, event: NewEvent) -> str | None:
    if event.metadata is None:
        return None
    try:
        text = orjson.dumps(dict(event.metadata)).decode()
    except TypeError as error:
        raise InvalidEventError(stream, event.data.event_type, f"its metadata is not JSON: {error}") from error
    if "\\u0000" in text:
        raise InvalidEventError(stream, event.data.event_type, "its metadata holds a NUL character")
    return text


def _checked_traceparent(stream: str, event: NewEvent) -> str | None:
    value = event.traceparent
    if value is not None and not (value.isascii() and value.isprintable() and len(value) <= 512):
        raise InvalidEventError(stream, event.data.event_type, "its traceparent is not a W3C trace context header")
    return value
