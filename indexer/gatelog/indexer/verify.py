"""``gatelog verify``: gate, outbox, index and topics held against each other, while everything goes on.

What is read is read in pages; what is remembered of the whole is two bits a position, and one number a partition.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import asyncpg
from confluent_kafka import Message

from gatelog.core import kafka, migrations, postgres, shards, tail
from gatelog.core.errors import IndexPlaceError, InvalidInputError, UndecodableRecordError
from gatelog.core.positions import Positions
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.tail import Offsets
from gatelog.indexer import seeking, topics
from gatelog.indexer.batches import Place, place_of
from gatelog.indexer.differences import Differences, Verified
from gatelog.schemas.envelope import ForeignRecordError, Record, parse_record, source_of

PAGE_ROWS: Final = 10_000
PAGE_STREAMS: Final = 5_000
SNAPSHOT_TRIES: Final = 10
DISMISSED_MAX: Final = 1_000_000
_PACKAGE: Final = "gatelog.indexer"
_FIELDS: Final = (
    "stream", "version", "event id", "type", "time", "correlation id", "causation id", "traceparent", "metadata",
    "schema id", "payload",
)  # fmt: skip

Report: TypeAlias = Callable[[str, int, int], None]  # stage, done, total


async def verify(settings: Settings, report: Report, *, first: int = 1, last: int | None = None) -> Verified:
    """Compare, and return what differs. Changes nothing; relay, indexer and appends may go on.

    With ``first`` or ``last``, only these positions are compared: topics and index, the order within streams, and the
    gate for the streams of these events; without, the heads of all streams and the outbox, too.

    Raises:
        InvalidInputError: there are no such positions.
        IndexPlaceError: the index is in other databases than the gate.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time.
    """
    connection = await postgres.connect(settings.dsn, settings.store, "gatelog verify")
    try:
        with postgres.translated(settings.store, settings.dsn):
            if await shards.check_gate(connection, settings) is not None:
                raise IndexPlaceError(
                    settings.store,
                    "its index is in other databases than the gate: `gatelog verify` cannot compare those yet.",
                )
            await migrations.check(connection, settings.store, _PACKAGE)
            work = _Verification(settings, connection, report)
            return await work.run(first, last)
    finally:
        connection.terminate()


class _Verification:
    def __init__(self, settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]", report: Report) -> None:
        self._settings = settings
        self._properties = settings.kafka_properties
        self._connection = connection
        self._report = report
        self._sql = queries(_PACKAGE, "verify.sql", settings.store)
        self._source = source_of(settings.store)
        self._found = Differences()
        self._ahead: list[tuple[int, str]] = []  # records past what was published when we began
        self._last_of: dict[Place, int] = {}  # position
        self._records = self._foreign = self._copies = self._behind = 0

    async def run(self, first: int, last: int | None) -> Verified:
        begun = time.monotonic()
        await self._connection.execute(self._sql["session"])
        state = await self._state()
        is_whole = first == 1 and last is None
        last = state["published"] if last is None else last
        if not (1 <= first <= last <= state["published"] or (is_whole and not state["published"])):
            raise InvalidInputError(
                f"Positions {first:,} to {last:,} cannot be compared: {state['published']:,} are published."
            )
        self._frontier: int = state["frontier"]
        self._offsets = {(r["topic"], r["partition"]): r["next_offset"] for r in await self._rows("offsets")}
        self._dismissed = {tuple(row) for row in await self._rows("dismissed", DISMISSED_MAX)}
        in_kafka, in_index = Positions(first, last), Positions(first, last)
        await self._compare_topics(in_kafka, first, last, is_whole=is_whole)
        await self._read_index(in_index, first, last)
        self._compare_positions(in_kafka, in_index)
        streams = await self._compare_heads() if is_whole else 0
        waiting = await self._compare_outbox() if is_whole else 0
        await self._judge_ahead()
        return Verified(
            first, last, self._frontier, self._records, in_index.count, self._behind, streams, waiting,
            state["unreadable"], self._foreign, self._copies, time.monotonic() - begun, dict(self._found.counts),
            dict(self._found.examples),
        )  # fmt: skip

    async def _state(self) -> asyncpg.Record:
        (row,) = await self._rows("state")
        return row

    async def _rows(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Run a statement; what was rotated under its snapshot is asked again."""
        for _ in range(SNAPSHOT_TRIES - 1):
            try:
                return await self._connection.fetch(self._sql[name], *arguments)
            except asyncpg.SnapshotTooOldError:
                continue
        return await self._connection.fetch(self._sql[name], *arguments)

    # --- topics and index --------------------------------------------------------------------------

    async def _compare_topics(self, in_kafka: Positions, first: int, last: int, *, is_whole: bool) -> None:
        admin = kafka.admin(self._properties)
        found = await asyncio.to_thread(kafka.topics_of, admin, self._properties, self._settings.store)
        begins = await asyncio.to_thread(tail.begins_of, self._properties, found)
        ends = await asyncio.to_thread(tail.ends_of, self._properties, found)
        await self._compare_lives(found, ends)
        if not is_whole:
            find = seeking.offsets_of
            begins, ends = (
                await asyncio.to_thread(find, self._properties, self._source, begins, ends, first),
                await asyncio.to_thread(find, self._properties, self._source, begins, ends, last + 1),
            )
        total = sum(map(sum, ends.values())) - sum(map(sum, begins.values()))
        async with aclosing(tail.stream(self._properties, begins, ends)) as chunks:
            async for chunk in chunks:
                await self._compare_chunk(chunk, in_kafka, first, last)
                self._report("compare topics and index", min(self._records, total), total)

    async def _compare_lives(self, found: dict[str, int], ends: Offsets) -> None:
        """Topics that were made anew, and partitions that end before where the index has been."""
        ids = await asyncio.to_thread(topics.ids_of, self._properties, found)
        for row in await self._rows("topics"):
            if row["topic"] not in ids:
                self._found.add("topic is gone", row["topic"])
            elif ids[row["topic"]] != row["topic_id"]:
                self._found.add("topic was made anew", row["topic"])
        for (topic, partition), offset in self._offsets.items():
            end = (ends.get(topic, [])[partition : partition + 1] or [0])[0]
            if offset > end:
                self._found.add(
                    "partition is shorter",
                    f"{topic} partition {partition} ends at {end:,}, was indexed up to {offset:,}",
                )

    async def _compare_chunk(self, messages: Sequence[Message], in_kafka: Positions, first: int, last: int) -> None:
        records: list[tuple[Message, Record]] = []
        repeated: list[tuple[Message, Record]] = []
        for message in messages:
            self._records += 1
            if (record := self._parsed(message)) is None:
                continue
            if first <= record.position <= last:
                (records if in_kafka.add(record.position) else repeated).append((message, record))
                if repeated and repeated[-1][0] is message:
                    continue
            elif record.position > last and len(self._ahead) < PAGE_ROWS:
                place, offset = place_of(message)
                self._ahead.append((record.position, f"{_at(place, offset)}, position {record.position:,}"))
            self._check_order(message, record)
        positions = [record.position for _, record in (*records, *repeated)]
        rows = {row[0]: row for row in await self._rows("rows", positions)}
        for message, record in records:
            self._compare(message, record, rows.get(record.position))
        for message, record in repeated:
            self._compare_repeated(message, record, rows.get(record.position))

    def _parsed(self, message: Message) -> Record | None:
        place, offset = place_of(message)
        if (*place, offset) in self._dismissed:
            return None
        try:
            return parse_record(self._source, message.headers(), message.value())
        except ForeignRecordError:
            self._foreign += 1
        except UndecodableRecordError as error:
            self._found.add("unreadable in Kafka", f"{_at(place, offset)}: {error}")
        return None

    def _check_order(self, message: Message, record: Record) -> None:
        place, offset = place_of(message)
        if record.position <= self._last_of.get(place, 0):
            self._found.add("out of order in Kafka", f"position {record.position:,} at {_at(place, offset)}")
        self._last_of[place] = max(record.position, self._last_of.get(place, 0))

    def _compare_repeated(self, message: Message, record: Record, row: asyncpg.Record | None) -> None:
        """A copy to the letter does no harm: it is counted."""
        if row is not None and tuple(row[1:]) == _facts(record):
            self._copies += 1
        else:
            self._found.add("repeated in Kafka", f"position {record.position:,} at {_at(*place_of(message))}")

    def _compare(self, message: Message, record: Record, row: asyncpg.Record | None) -> None:
        place, offset = place_of(message)
        where = f"position {record.position:,} ({record.stream}@{record.version}) at {_at(place, offset)}"
        if row is None:
            if record.position <= self._frontier or offset < self._offsets.get(place, 0):
                self._found.add("missing in the index", where)
            else:
                self._behind += 1
            return
        if unlike := [name for name, a, b in zip(_FIELDS, row[1:], _facts(record), strict=True) if a != b]:
            self._found.add("index and Kafka differ", f"{where}: {', '.join(unlike)}")
        key = message.key()
        if (key.encode() if isinstance(key, str) else key) != record.stream.encode():
            self._found.add("wrong key in Kafka", where)

    async def _read_index(self, in_index: Positions, first: int, last: int) -> None:
        """Which positions it holds, and whether each event follows its stream's last one."""
        after = first - 1
        while rows := await self._rows("positions", after, last, PAGE_ROWS):
            for row in rows:
                in_index.add(row[0])
            for bad in await self._rows("disorder", after + 1, rows[-1][0]):
                self._found.add(*_disorder(bad))
            after = rows[-1][0]
            self._report("check the index", after - first + 1, last - first + 1)

    def _compare_positions(self, in_kafka: Positions, in_index: Positions) -> None:
        for start, end in in_kafka.gaps():
            for begin, stop, is_indexed in _runs(start, end, in_index):
                kind = "missing in Kafka" if is_indexed else "missing everywhere"
                shown = f"position {begin:,}" if begin == stop else f"positions {begin:,} to {stop:,}"
                self._found.add(kind, shown, stop - begin + 1)

    # --- gate and outbox ---------------------------------------------------------------------------

    async def _compare_heads(self) -> int:
        after, streams = "", 0
        while rows := await self._rows("heads", after, PAGE_STREAMS):
            for row in rows:
                if row["version"] != row["found"]:
                    self._found.add(
                        "gate differs",
                        f"{row['stream']}: the gate says version {row['version']:,}, index and outbox end at "
                        f"{row['found']:,}",
                    )
            after, streams = rows[-1]["stream"], streams + len(rows)
            self._report("compare the gate", streams, streams)
        return streams

    async def _compare_outbox(self) -> int:
        after: tuple[str, int] = ("", 0)
        events = 0
        while rows := await self._rows("outbox", *after, PAGE_ROWS):
            for row in rows:
                if (why := _outbox_problem(row)) is not None:
                    self._found.add("outbox differs", f"{row['stream']}@{row['version']}: {why}")
            after, events = (rows[-1]["stream"], rows[-1]["version"]), events + len(rows)
            self._report("compare the outbox", events, events)
        return events

    async def _judge_ahead(self) -> None:
        """Records that came while we read are well; positions that the relay has not given are not."""
        state = await self._state()
        for position, where in self._ahead:
            if position > state["published"] + state["pending"]:
                self._found.add("position was never given", where)


def _at(place: Place, offset: int) -> str:
    return f"{place[0]} partition {place[1]} offset {offset:,}"


def _facts(record: Record) -> tuple[Any, ...]:
    return (
        record.stream, record.version, record.id, record.type, record.recorded_at, record.correlation_id,
        record.causation_id, record.traceparent, record.metadata_json, record.schema_id, record.raw,
    )  # fmt: skip


def _runs(start: int, end: int, index: Positions) -> Iterator[tuple[int, int, bool]]:
    """Yield the runs of positions from ``start`` to ``end`` that the index holds, or does not."""
    begin, is_in = start, start in index
    for position in range(start + 1, end + 1):
        if (position in index) != is_in:
            yield begin, position - 1, is_in
            begin, is_in = position, not is_in
    yield begin, end, is_in


def _disorder(row: asyncpg.Record) -> tuple[str, str]:
    where = f"position {row['position']:,} ({row['stream']}@{row['version']})"
    if row["head"] is None:
        return "gate differs", f"{where}: the gate does not know the stream"
    if row["head"] < row["version"]:
        return "gate differs", f"{where}: the gate says that the stream ends at version {row['head']:,}"
    if row["before"] is None:
        return "gap in a stream", f"{where}: the index lacks version {row['version'] - 1:,}"
    return "out of order in a stream", f"{where}: the version before it is at position {row['before']:,}"


def _outbox_problem(row: asyncpg.Record) -> str | None:
    if row["position"] is None:
        return None if row["follows"] else f"nobody holds version {row['version'] - 1:,}"
    if (row["stream"], row["version"]) != (row["indexed_stream"], row["indexed_version"]):
        return (
            f"the index has the same id as {row['indexed_stream']}@{row['indexed_version']} at position "
            f"{row['position']:,}"
        )
    return None if row["is_same"] else f"the index has another content at position {row['position']:,}"
