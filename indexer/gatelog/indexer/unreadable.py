"""Records that the indexer could not read: listed, shown, tried again after a fix, or dismissed.

They are never removed. A record that is tried again ends in the index once, whoever else tries at the same time: its
row is locked, and the index knows every position, version and id.
"""

from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

from gatelog.core import postgres, shards
from gatelog.core.errors import InvalidInputError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.sql import queries
from gatelog.indexer.forgeries import Gate
from gatelog.indexer.rows import COLUMNS, json_of, row_of
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Record, parse_record
from gatelog.schemas.registries import registry_of

LIST_ROWS_MAX: Final = 1_000
_BATCH_ROWS: Final = 100  # each may be as large as a record
_PACKAGE: Final = "gatelog.indexer"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that was kept aside, without its bytes."""

    id: int
    topic: str
    partition: int
    offset: int
    reason: str
    seen_at: datetime
    resolved_at: datetime | None
    resolution: str | None
    value_bytes: int | None


@dataclass(frozen=True, slots=True)
class Whole(Unreadable):
    """The same, as it came."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a record that was tried again."""

    id: int
    topic: str
    partition: int
    offset: int
    settled: bool
    what: str


class UnreadableRecords:
    """The records that one store's indexer could not read."""

    def __init__(self, settings: Identified, gate: postgres.Pool, pool: postgres.Pool, shard: int = 0) -> None:
        """Work through ``pool``, which leads to a shard; the schemas are in the gate's database, often the same."""
        self._owner = shards.owner_of(settings, shard)
        self._settings = settings
        self._pool = pool
        self._gate = Gate(settings, gate)
        self._sql = queries(_PACKAGE, "unreadable.sql", settings.store)
        self._advance = queries(_PACKAGE, "index.sql", settings.store)["frontier"]
        self._codec = Codec(registry_of(settings, gate), register=False, upcasts=False)
        self._source = settings.source

    async def list(self, *, after: int = 0, settled: bool = False, limit: int = LIST_ROWS_MAX) -> list[Unreadable]:
        """Return those that nobody has settled, or with ``settled`` all, in the order in which they came."""
        rows = await self._pool.fetch(self._sql["list"], after, settled, limit)
        return [_unreadable(row) for row in rows]

    async def show(self, number: int) -> Whole:
        """Return one as it came.

        Raises:
            InvalidInputError: there is none of that number.
        """
        row = await self._pool.fetchrow(self._sql["show"], number)
        if row is None:
            raise InvalidInputError(f"There is no unreadable record {number}. See `gatelog index unreadable --all`.")
        size = None if row["value"] is None else len(row["value"])
        parts = {"key": row["key"], "value": row["value"], "headers": _headers(row["headers"])}
        return Whole(**_facts(row), value_bytes=size, **parts)

    async def dismiss(self, numbers: Sequence[int], why: str) -> None:
        """Settle records that are not to be indexed: what somebody else wrote into the topic.

        Raises:
            InvalidInputError: one of them does not exist, or is settled. Nothing was changed.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            for number in numbers:
                if await connection.fetchval(self._sql["settle"], number, f"dismissed: {why}") is None:
                    raise InvalidInputError(f"There is no open unreadable record {number}. Nothing was changed.")

    async def retry(self, numbers: Sequence[int] | None = None) -> AsyncIterator[Outcome]:
        """Read them again, those of ``numbers`` or all, and yield what became of each."""
        last = 0
        while rows := await self._pool.fetch(self._sql["open"], last, _BATCH_ROWS, numbers):
            for row in rows:
                settled, what = await self._retry(row)
                yield Outcome(row["id"], row["topic"], row["partition"], row["offset"], settled, what)
            last = rows[-1]["id"]

    async def _retry(self, row: asyncpg.Record) -> tuple[bool, str]:
        try:
            record = parse_record(self._source, _headers(row["headers"]), row["value"])
        except UndecodableRecordError as error:
            return False, str(error)
        if self._owner is not None and not self._owner.owns(record.stream):
            return False, f"its stream {record.stream!r} is of another shard, where its key does not lead"
        if why := (await self._gate.against([record])).get(0):
            return False, why
        data_json, problem = await self._json(record)
        try:
            async with self._pool.acquire() as connection:
                async with connection.transaction():
                    outcome = await self._settle(connection, row["id"], record, data_json, problem)
                await connection.execute(self._advance)
        except asyncpg.UniqueViolationError:
            return False, "its position, its version in the stream, or its id was taken a moment ago"
        return outcome

    async def _json(self, record: Record) -> tuple[str | None, str | None]:
        """Return the payload as JSON if that is wanted, and why it cannot be."""
        if not self._settings.index_jsonb:
            return None, None
        await self._codec.warm({record.schema_id})
        try:
            return json_of(self._codec, record.schema_id, record.raw), None
        except UndecodableRecordError as error:
            return None, str(error)

    async def _settle(
        self, connection: postgres.Connection, number: int, record: Record, data_json: str | None, problem: str | None
    ) -> tuple[bool, str]:
        """Bring a record into the index, if it is not there, and settle it if nothing is left to do."""
        sql = self._sql
        if await connection.fetchrow(sql["lock"], number) is None:
            return True, "settled by somebody else meanwhile"
        place = (record.position, record.stream, record.version, record.id)
        same = await connection.fetchrow(sql["same"], *place, record.type, record.raw)
        if same is None:
            if taken := await connection.fetchrow(sql["taken"], *place):
                return False, (
                    f"it claims to be {record.stream}@{record.version} at position {record.position:,}; the index "
                    f"has {taken['stream']}@{taken['version']} at position {taken['position']:,} instead"
                )
            row = [row_of(record, data_json)]
            await connection.copy_records_to_table(
                "events", schema_name=self._settings.store, columns=COLUMNS, records=row
            )
            what = f"indexed at position {record.position:,}"
        elif same["has_json"] or data_json is None:
            what = f"the index holds it at position {record.position:,}"
        else:
            await connection.execute(sql["fill"], record.position, data_json)
            what = f"its payload at position {record.position:,} is in jsonb now"
        if problem is not None:
            return False, f"{what}, but its payload is not in jsonb: {problem}"
        await connection.execute(sql["settle"], number, what)
        return True, what


def _facts(row: asyncpg.Record) -> dict[str, Any]:
    names = ("id", "topic", "partition", "offset", "reason", "seen_at", "resolved_at", "resolution")
    return {name: row[name] for name in names}


def _unreadable(row: asyncpg.Record) -> Unreadable:
    return Unreadable(**_facts(row), value_bytes=row["value_bytes"])


def _headers(stored: str) -> dict[str, bytes]:
    return {name: b64decode(value) for name, value in orjson.loads(stored).items()}
