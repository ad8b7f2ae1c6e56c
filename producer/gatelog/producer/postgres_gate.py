"""The gate in Postgres: one round trip and one commit for a batch of appends.

The statement "plain" accepts what is plainly right; whatever it leaves is judged by the SQL function "append".
A batch that fails as a whole (an id stored by somebody else at this moment, a value that Postgres refuses, a
stream locked from outside) is taken apart, so that it costs no neighbour anything but time.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final
from uuid import UUID

import asyncpg

from gatelog.core import logs, postgres
from gatelog.core.errors import (
    BacklogFullError,
    ConflictError,
    EventIdReusedError,
    InvalidEventError,
    PostgresRefusedError,
    PostgresUnavailableError,
    StreamClosedError,
    WaitTimeoutError,
)
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.telling import told
from gatelog.producer.doorbell import Doorbell
from gatelog.producer.gate import LATER, Appended, EncodedEvent, HistoricWrite, StreamWrite, Verdict, Writes
from gatelog.producer.loading import load_chunk

PACKAGE: Final = "gatelog.producer"
IMPATIENT_MS: Final = 5
_RETRY_DELAY_S: Final = 0.2
_RACE_ATTEMPTS_MAX: Final = 3
_RACES: Final = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_log = logs.logger("producer")


async def prepare_session(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Set a new connection of the pool up for the statements of the gate."""
    await connection.execute(queries(PACKAGE, "append.sql", "gatelog")["session"])


class PostgresGate:
    """Decides appends in the tables of one store."""

    def __init__(self, settings: Settings, pool: postgres.Pool, doorbell: Doorbell) -> None:
        """Work through ``pool``, whose connections ``prepare_session`` has seen; ring after what was accepted."""
        self._settings = settings
        self._pool = pool
        self._doorbell = doorbell
        self._sql = queries(PACKAGE, "append.sql", settings.store)
        self._free: list[postgres.PooledConnection] = []

    async def append(self, batch: Sequence[Writes], *, patient: bool) -> Sequence[Verdict]:
        """See ``Gate``."""
        try:
            return await self._until_answered(batch, patient=patient)
        except asyncpg.LockNotAvailableError:
            return await self._each(batch, patient=False) if len(batch) > 1 else [LATER]
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                return [await self._explain_or_retry(batch[0], error)]
            _log.info("append.batch_split", appends=len(batch), error=type(error).__name__)
            return await self._each(batch, patient=patient)

    async def append_within(self, connection: postgres.Connection, writes: Writes) -> list[Appended]:
        """Append inside the caller's open transaction; the relay is woken when it has ended.

        Raises:
            GatelogError: the append was refused; the transaction is as before.
            asyncpg.PostgresError: Postgres failed the statement, and the transaction with it.
        """
        (verdict,) = await self._judge(connection, [writes], None)
        self._doorbell.ring_after(connection)
        assert verdict is not LATER
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    async def unpublished(self, event_ids: Sequence[UUID]) -> int:
        """See ``Gate``."""
        with postgres.translated(self._settings.store, self._settings.dsn):
            return int(await self._pool.fetchval(self._sql["unpublished"], event_ids))

    async def load(self, chunk: Sequence[HistoricWrite]) -> int:
        """See ``Gate``. Streams that are locked from outside are waited for, with no lock held meanwhile."""
        deadline = asyncio.get_running_loop().time() + self._settings.append_timeout_s
        for attempt in count(1):
            try:
                known = await self._load_once(chunk)
            except (asyncpg.LockNotAvailableError, *_RACES) as error:
                if asyncio.get_running_loop().time() + _RETRY_DELAY_S > deadline:
                    raise WaitTimeoutError(
                        f"Load: another transaction held one of the streams from {chunk[0].stream!r} on for "
                        f"{self._settings.append_timeout_s:g} s. Nothing of this chunk was stored: load again."
                    ) from error
                await asyncio.sleep(_RETRY_DELAY_S)
            except BacklogFullError:  # or a stream that was refused a moment ago, and has come to its place since
                if attempt == _RACE_ATTEMPTS_MAX:
                    raise
            else:
                break
        self._doorbell.ring()
        return known

    async def _load_once(self, chunk: Sequence[HistoricWrite]) -> int:
        with postgres.translated(self._settings.store, self._settings.dsn):
            async with self._pool.acquire() as connection:
                return await load_chunk(connection, self._settings, chunk)

    async def _each(self, batch: Sequence[Writes], *, patient: bool) -> list[Verdict]:
        """Append by append; what follows on a stream that is put off is put off too: nothing is overtaken."""
        verdicts: list[Verdict] = []
        put_off: set[str] = set()
        for writes in batch:
            streams = {write.stream for write in writes}
            verdict = LATER if streams & put_off else (await self.append([writes], patient=patient))[0]
            if verdict is LATER:
                put_off |= streams
            verdicts.append(verdict)
        return verdicts

    async def _until_answered(self, batch: Sequence[Writes], *, patient: bool) -> list[Verdict]:
        """Repeat a batch whose connection died, until an answer comes: the event ids make that safe.

        Callers give up by their own timeouts; a batch that nobody waits for any more is still bounded by it, even
        where the network has forgotten its connection and TCP would go on trying for a quarter of an hour. A full
        disk is told at once: it lasts, and a timeout would not say what is wrong.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.append_timeout_s
        while True:
            try:
                with postgres.translated(self._settings.store, self._settings.dsn):
                    async with asyncio.timeout_at(deadline):
                        verdicts = await self._on_own_connection(batch, patient=patient)
            except PostgresUnavailableError as error:
                late = asyncio.get_running_loop().time() + _RETRY_DELAY_S > deadline
                if late or isinstance(error.__cause__, asyncpg.DiskFullError):
                    raise
                _log.warning("append.retry", appends=len(batch), error=told(error))
                await asyncio.sleep(_RETRY_DELAY_S)
            else:
                self._doorbell.ring()
                return verdicts

    async def _on_own_connection(self, batch: Sequence[Writes], *, patient: bool) -> list[Verdict]:
        """Connections are kept from batch to batch: the pool's give and take costs as much as a small append."""
        connection = self._free.pop() if self._free else await self._pool.acquire()
        try:
            verdicts = await self._decide(connection, batch, patient=patient)
        except BaseException as error:
            if not isinstance(error, asyncpg.PostgresError) or isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                with suppress(asyncpg.InterfaceError):  # its pool has it back: it had ended
                    connection.terminate()  # who knows what it was doing; or it leads to a standby
            await self._pool.release(connection)
            raise
        self._free.append(connection)
        return verdicts

    async def close(self) -> None:
        """Give the connections back."""
        while self._free:
            await self._pool.release(self._free.pop())

    async def _decide(
        self, connection: postgres.Connection, batch: Sequence[Writes], *, patient: bool
    ) -> list[Verdict]:
        verdicts: list[Verdict | None] = [None] * len(batch)
        if patient:  # somebody who is not has been here before: its case is not plain
            await self._accept_plain(connection, batch, verdicts)
        left = [place for place, verdict in enumerate(verdicts) if verdict is None]
        if left:
            answers = await self._judge(connection, [batch[at] for at in left], None if patient else IMPATIENT_MS)
            for place, answer in zip(left, answers, strict=True):
                verdicts[place] = answer
        return [verdict for verdict in verdicts if verdict is not None]

    async def _accept_plain(
        self, connection: postgres.Connection, batch: Sequence[Writes], verdicts: list[Verdict | None]
    ) -> None:
        """Fill in the verdicts of the appends that are plainly right."""
        if len(batch) == 1 and len(batch[0]) == 1 and len(batch[0][0].events) == 1 and not batch[0][0].closes:
            version = await self._accept_one(connection, batch[0][0])
            if version is not None:
                verdicts[0] = [_appended(batch[0][0], version)]
            return
        try:
            plain = _Plain(batch)
            if not plain.streams:
                return
            rows = await connection.fetch(self._sql["plain"], *plain.arguments(), self._settings.outbox_events_max)
        except asyncpg.UniqueViolationError:
            return  # an id was stored by somebody else at this moment, or is in the batch twice
        versions = {row["stream"]: row["version"] for row in rows}
        for place, write, offset in plain.writes:
            if (version := versions.get(write.stream)) is not None:
                total = len(plain.streams[write.stream][1])
                verdicts[place] = [_appended(write, version - total + offset + 1)]

    async def _accept_one(self, connection: postgres.Connection, write: StreamWrite) -> int | None:
        (event,) = write.events
        try:
            version: int | None = await connection.fetchval(
                self._sql["plain_one"],
                write.stream,
                write.code,
                event.id,
                event.type,
                event.schema_id,
                event.data,
                event.correlation_id,
                event.causation_id,
                event.traceparent,
                event.metadata,
                self._settings.outbox_events_max,
            )
        except asyncpg.UniqueViolationError:
            return None
        return version

    async def _judge(
        self, connection: postgres.Connection, batch: Sequence[Writes], lock_timeout_ms: int | None
    ) -> list[Verdict]:
        arguments = _judge_arguments(batch)
        rows = await connection.fetch(
            self._sql["append"], *arguments, self._settings.outbox_events_max, lock_timeout_ms
        )
        verdicts: list[Verdict] = []
        at = 0
        for writes in batch:
            verdicts.append(self._verdict(writes, rows[at : at + len(writes)]))
            at += len(writes)
        return verdicts

    def _verdict(self, writes: Writes, rows: Sequence[asyncpg.Record]) -> Verdict:
        for write, row in zip(writes, rows, strict=True):
            if row["verdict"] == "backlog":
                return BacklogFullError(self._settings.store, self._settings.outbox_events_max)
            if row["verdict"] == "reused":
                return EventIdReusedError(write.stream, row["known"], len(write.events), write.events[0].id)
        known = [row["verdict"] == "known" for row in rows]
        if any(known) and not all(known):
            write = writes[known.index(True)]
            return EventIdReusedError(write.stream, len(write.events), len(write.events), write.events[0].id)
        for write, row in zip(writes, rows, strict=True):
            if row["verdict"] == "closed":
                return StreamClosedError(write.stream, row["stream_version"])
            if row["verdict"] == "conflict":
                return ConflictError(write.stream, write.expected, row["stream_version"])
        return [
            _appended(write, row["first_version"], known=row["verdict"] == "known")
            for write, row in zip(writes, rows, strict=True)
        ]

    async def _explain_or_retry(self, writes: Writes, error: asyncpg.PostgresError) -> Verdict:
        """A unique violation means that another process stored the same ids meanwhile: ask the gate again."""
        for _ in range(_RACE_ATTEMPTS_MAX if isinstance(error, _RACES) else 0):
            try:
                return (await self._until_answered([writes], patient=True))[0]
            except asyncpg.LockNotAvailableError:
                return LATER
            except _RACES as again:
                error = again
        first = writes[0]
        if isinstance(error, asyncpg.UniqueViolationError):
            return EventIdReusedError(first.stream, 1, len(first.events), first.events[0].id)
        if isinstance(error, asyncpg.DataError):
            return InvalidEventError(first.stream, first.events[0].type, str(error))
        return PostgresRefusedError(first.stream, f"{type(error).__name__}: {error}")


def _appended(write: StreamWrite, first_version: int, *, known: bool = False) -> Appended:
    last_version = first_version + len(write.events) - 1
    return Appended(write.stream, first_version, last_version, tuple([event.id for event in write.events]), known)


class _Plain:
    """What of a batch the statement "plain" may accept: appends to one stream that do not close it."""

    def __init__(self, batch: Sequence[Writes]) -> None:
        self.streams: dict[str, tuple[int, list[EncodedEvent]]] = {}  # what is expected, and what is appended
        self.writes: list[tuple[int, StreamWrite, int]] = []  # place in the batch, events of its stream before it
        for place, writes in enumerate(batch):
            write = writes[0]
            if len(writes) > 1 or write.closes:
                continue
            if (found := self.streams.get(write.stream)) is None:
                found = self.streams[write.stream] = (write.code, [])
            self.writes.append((place, write, len(found[1])))
            found[1].extend(write.events)

    def arguments(self) -> list[Sequence[object] | None]:
        names: list[str] = []
        codes: list[int] = []
        counts: list[int] = []
        nths: list[int] = []
        events: list[EncodedEvent] = []
        for stream in sorted(self.streams):  # code points sort as UTF-8 bytes do
            code, own = self.streams[stream]
            total = len(own)
            names += [stream] * total
            codes += [code] * total
            counts += [total] * total
            nths += range(1, total + 1)
            events += own
        return [names, codes, counts, nths, *_columns(events)]


def _judge_arguments(batch: Sequence[Writes]) -> list[Sequence[object] | None]:
    writes = [(number, write) for number, append in enumerate(batch) for write in append]
    firsts, first = [], 1
    for _, write in writes:
        firsts.append(first)
        first += len(write.events)
    return [
        [number for number, _ in writes],
        [write.stream for _, write in writes],
        [write.code for _, write in writes],
        [*firsts],
        [len(write.events) for _, write in writes],
        [write.closes for _, write in writes],
        [place for place, (_, write) in enumerate(writes, 1) for _ in write.events],
        *_columns([event for _, write in writes for event in write.events]),
    ]


def _columns(events: Sequence[EncodedEvent]) -> list[Sequence[object] | None]:
    """The events by column. One of nothing but None is not sent: unnest fills it up."""
    return [None if column.count(None) == len(column) else column for column in zip(*events, strict=True)]
