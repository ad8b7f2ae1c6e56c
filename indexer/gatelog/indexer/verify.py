"""``gatelog verify``: gate, outbox, index and topics held against each other, while everything goes on.

What is read is read in pages; what is remembered of the whole is two bits a position, and one number a partition.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import asyncpg
from confluent_kafka import Message

from gatelog.core import asking, kafka, migrations, postgres, tail
from gatelog.core.errors import InvalidInputError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.namesakes import Namesakes
from gatelog.core.positions import Positions
from gatelog.core.settings import Settings
from gatelog.core.shards.databases import Databases, opened
from gatelog.core.sql import queries
from gatelog.core.tail import Offsets
from gatelog.indexer import seeking
from gatelog.indexer.batches import Place, place_of
from gatelog.indexer.differences import Differences, Verified, disorder, outbox_problem
from gatelog.schemas.envelope import ForeignRecordError, Record, parse_record

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
    gate for the streams of these events; without, the heads of all streams and the outbox, too. An index in other
    databases is compared shard by shard, and whether each event is in the right one.

    Raises:
        InvalidInputError: there are no such positions.
        IndexPlaceError: a database is not what the settings say.
        ForeignStoreError: Kafka holds topics of another store of the same name.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time.
    """
    async with opened(settings, "gatelog verify") as databases:
        with postgres.translated(settings.store, settings.dsn):
            sql = queries(_PACKAGE, "verify.sql", settings.store)
            for connection in {databases.gate, *databases.shards}:
                await connection.execute(sql["session"])
            for connection in databases.shards:
                await migrations.check(connection, settings.store, _PACKAGE)
            return await _Verification(databases.settings, databases, report).run(first, last)


class _Verification:
    def __init__(self, settings: Identified, databases: Databases, report: Report) -> None:
        self._settings = settings
        self._properties = settings.kafka_properties
        self._databases = databases
        self._shards = range(len(databases.shards))
        self._report = report
        self._sql = queries(_PACKAGE, "verify.sql", settings.store)
        self._source = settings.source
        self._found = Differences()
        self._ahead: list[tuple[int, str]] = []  # records past what was published when we began
        self._last_of: dict[Place, int] = {}  # position
        self._frontiers: list[int] = []  # of each shard
        self._offsets: list[dict[Place, int]] = []
        self._unreadable = 0
        self._dismissed: set[tuple[object, ...]] = set()
        self._records = self._foreign = self._copies = self._behind = 0

    async def run(self, first: int, last: int | None) -> Verified:
        begun = time.monotonic()
        (gate,) = await self._gate("published")
        is_whole = first == 1 and last is None
        last = gate["published"] if last is None else last
        if not (1 <= first <= last <= gate["published"] or (is_whole and not gate["published"])):
            raise InvalidInputError(
                f"Positions {first:,} to {last:,} cannot be compared: {gate['published']:,} are published."
            )
        await self._look_at_shards(gate["told"])
        in_kafka, in_index = Positions(first, last), Positions(first, last)
        await self._compare_topics(in_kafka, first, last, is_whole=is_whole)
        await self._read_index(in_index, first, last)
        self._compare_positions(in_kafka, in_index)
        streams = await self._compare_heads() if is_whole else 0
        waiting = await self._compare_outbox() if is_whole else 0
        await self._judge_ahead()
        return Verified(
            first, last, min(self._frontiers), self._records, in_index.count, self._behind, streams, waiting,
            self._unreadable, self._foreign, self._copies, time.monotonic() - begun, dict(self._found.counts),
            dict(self._found.examples),
        )  # fmt: skip

    async def _gate(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Ask the gate's database; what was rotated under a statement's snapshot is asked again."""
        for _ in range(SNAPSHOT_TRIES - 1):
            try:
                return await self._databases.gate.fetch(self._sql[name], *arguments)
            except asyncpg.SnapshotTooOldError:
                continue
        return await self._databases.gate.fetch(self._sql[name], *arguments)

    async def _index(self, shard: int, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        return await self._databases.ask(shard, self._sql[name], *arguments)

    async def _look_at_shards(self, told: int) -> None:
        """Where each stands. The gate's own number, which was asked before, is never ahead of theirs."""
        for shard in self._shards:
            (state,) = await self._index(shard, "state")
            self._frontiers.append(state["frontier"])
            self._unreadable += state["unreadable"]
            rows = await self._index(shard, "offsets")
            self._offsets.append({(row["topic"], row["partition"]): row["next_offset"] for row in rows})
            self._dismissed |= {tuple(row) for row in await self._index(shard, "dismissed", DISMISSED_MAX)}
            if state["frontier"] < told:
                self._found.add(
                    "index is incomplete",
                    f"{self._databases.named(shard)}whole up to position {state['frontier']:,} only, but events up "
                    f"to {told:,} may have left the outbox",
                )

    # --- topics and index --------------------------------------------------------------------------

    async def _compare_topics(self, in_kafka: Positions, first: int, last: int, *, is_whole: bool) -> None:
        admin = kafka.admin(self._properties)
        found = await asyncio.to_thread(kafka.topics_of, admin, self._properties, self._settings.store)
        await asyncio.to_thread(Namesakes(self._settings).refuse, found)
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
        ids = await asyncio.to_thread(asking.ids, self._properties, found)
        for shard in self._shards:
            named = self._databases.named(shard)
            for row in await self._index(shard, "topics"):
                if row["topic"] not in ids:
                    self._found.add("topic is gone", f"{named}{row['topic']}")
                elif ids[row["topic"]] != row["topic_id"]:
                    self._found.add("topic was made anew", f"{named}{row['topic']}")
            for (topic, partition), offset in self._offsets[shard].items():
                end = (ends.get(topic, [])[partition : partition + 1] or [0])[0]
                if offset > end:
                    self._found.add(
                        "partition is shorter",
                        f"{named}{topic} partition {partition} ends at {end:,}, was indexed up to {offset:,}",
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
        rows = await self._rows_of(record for _, record in (*records, *repeated))
        for message, record in records:
            self._compare(message, record, rows.get(record.position))
        for message, record in repeated:
            self._compare_repeated(message, record, rows.get(record.position))

    async def _rows_of(self, records: Iterable[Record]) -> dict[int, asyncpg.Record]:
        """Return what the shards that they belong to hold at their positions."""
        wanted: dict[int, list[int]] = defaultdict(list)
        for record in records:
            wanted[self._databases.shard_of(record.stream)].append(record.position)
        return {
            row[0]: row for shard, positions in wanted.items() for row in await self._index(shard, "rows", positions)
        }

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
            shard = self._databases.shard_of(record.stream)
            if record.position <= self._frontiers[shard] or offset < self._offsets[shard].get(place, 0):
                self._found.add("missing in the index", f"{self._databases.named(shard)}{where}")
            else:
                self._behind += 1
            return
        if unlike := [name for name, a, b in zip(_FIELDS, row[1:], _facts(record), strict=True) if a != b]:
            self._found.add("index and Kafka differ", f"{where}: {', '.join(unlike)}")
        key = message.key()
        if (key.encode() if isinstance(key, str) else key) != record.stream.encode():
            self._found.add("wrong key in Kafka", where)

    async def _read_index(self, in_index: Positions, first: int, last: int) -> None:
        """Whether each event follows its stream's last one, is where it belongs, and is known to the gate."""
        span = last - first + 1
        for shard in self._shards:
            after = first - 1
            while rows := await self._index(shard, "page", after, last, PAGE_ROWS):
                await self._judge_rows(shard, rows, in_index)
                after = rows[-1]["position"]
                self._report("check the index", shard * span + after - first + 1, len(self._shards) * span)

    async def _judge_rows(self, shard: int, rows: Sequence[asyncpg.Record], in_index: Positions) -> None:
        add = self._found.add
        heads = await self._heads_of({row["stream"] for row in rows})
        forgotten: set[object] = set()
        if self._databases.is_apart:  # there, it keeps the ids itself
            forgotten = {row["id"] for row in await self._gate("forgotten", [row["event_id"] for row in rows])}
        for row in rows:
            if not in_index.add(row["position"]):
                add("repeated in the index", f"{self._row(shard, row)}: another shard holds this position, too")
            if (owner := self._databases.shard_of(row["stream"])) != shard:
                add("in the wrong shard", f"{self._row(shard, row)}: it belongs to shard {owner}")
            if row["event_id"] in forgotten:
                add("gate forgot an id", f"{self._row(shard, row)}: {row['event_id']}; a retry would be stored again")
            if (bad := disorder(row, heads.get(row["stream"]))) is not None:
                add(bad[0], f"{self._row(shard, row)}: {bad[1]}")

    def _row(self, shard: int, row: asyncpg.Record) -> str:
        return f"{self._databases.named(shard)}position {row['position']:,} ({row['stream']}@{row['version']})"

    async def _heads_of(self, streams: Iterable[str]) -> dict[str, int]:
        return {row["stream"]: row["version"] for row in await self._gate("heads_of", list(streams))}

    def _compare_positions(self, in_kafka: Positions, in_index: Positions) -> None:
        for start, end in in_kafka.gaps():
            for begin, stop, is_indexed in _runs(start, end, in_index):
                kind = "missing in Kafka" if is_indexed else "missing everywhere"
                shown = f"position {begin:,}" if begin == stop else f"positions {begin:,} to {stop:,}"
                self._found.add(kind, shown, stop - begin + 1)

    # --- gate and outbox ---------------------------------------------------------------------------

    async def _compare_heads(self) -> int:
        after, streams = "", 0
        while rows := await self._gate("heads", after, PAGE_STREAMS):
            ends = await self._ends_of([row["stream"] for row in rows])
            ahead: dict[str, int] = {}
            for row in rows:
                stream, version, found = row["stream"], row["version"], max(row["waiting"], ends[row["stream"]])
                if found < version:
                    self._head_differs(stream, version, found)
                elif found > version:
                    ahead[stream] = found
            now = await self._heads_of(ahead)  # it was appended and indexed since, or the gate is behind
            for stream, found in ahead.items():
                if now.get(stream, 0) < found:
                    self._head_differs(stream, now.get(stream, 0), found)
            after, streams = rows[-1]["stream"], streams + len(rows)
            self._report("compare the gate", streams, streams)
        return streams

    def _head_differs(self, stream: str, version: int, found: int) -> None:
        where = f"{stream}: the gate says version {version:,}, index and outbox end at {found:,}"
        self._found.add("gate differs", where)

    async def _ends_of(self, streams: Iterable[str]) -> dict[str, int]:
        wanted: dict[int, list[str]] = defaultdict(list)
        for stream in streams:
            wanted[self._databases.shard_of(stream)].append(stream)
        return {
            row["stream"]: row["version"]
            for shard, own in wanted.items()
            for row in await self._index(shard, "ends", own)
        }

    async def _compare_outbox(self) -> int:
        after: tuple[str, int] = ("", 0)
        events = 0
        while rows := await self._gate("outbox", *after, PAGE_ROWS):
            ids = [row["event_id"] for row in rows]
            there = {
                row["event_id"]: row for shard in self._shards for row in await self._index(shard, "of_ids", ids)
            }
            first = [row for row in rows if not row["follows"] and row["event_id"] not in there]
            held = await self._held((row["stream"], row["version"] - 1) for row in first)
            for row in rows:
                follows = row["follows"] or (row["stream"], row["version"] - 1) in held
                if (why := outbox_problem(row, there.get(row["event_id"]), follows=follows)) is not None:
                    self._found.add("outbox differs", f"{row['stream']}@{row['version']}: {why}")
            after, events = (rows[-1]["stream"], rows[-1]["version"]), events + len(rows)
            self._report("compare the outbox", events, events)
        return events

    async def _held(self, places: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        wanted: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for place in places:
            wanted[self._databases.shard_of(place[0])].append(place)
        return {
            (row["stream"], row["version"])
            for shard, own in wanted.items()
            for row in await self._index(shard, "held", [stream for stream, _ in own], [v for _, v in own])
        }

    async def _judge_ahead(self) -> None:
        """Records that came while we read are well; positions that the relay has not given are not."""
        (gate,) = await self._gate("published")
        for position, where in self._ahead:
            if position > gate["published"] + gate["pending"]:
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
