"""``gatelog republish``: topics that were lost are filled again from the index, with the very records of the relay.

Records are appended in the order of positions. That is right where Kafka lacks the end of a partition, or all of it.
A partition that lacks records before others that it holds has to be emptied first.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final
from uuid import UUID

import asyncpg
from confluent_kafka import Message

from gatelog.core import histories, tail
from gatelog.core.asking import End
from gatelog.core.domain import category_of, topic_of
from gatelog.core.errors import ReconcileRefusedError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.partitioning import partition_of
from gatelog.core.positions import Positions
from gatelog.core.settings import Settings
from gatelog.core.shards.databases import Databases
from gatelog.core.sql import queries
from gatelog.core.tail import Ends, offsets_of
from gatelog.producer.elsewhere.copying import IndexCopy
from gatelog.producer.merging import Page, by_position
from gatelog.producer.reconcile import relays_kept_out
from gatelog.producer.relay.publisher import Publisher, TickAbortedError
from gatelog.producer.relay.ticks import Tick
from gatelog.producer.relay.topics import Topics
from gatelog.schemas.envelope import Record, parse_record

PAGE_ROWS: Final = 2_000
AGAIN_EVENTS_MAX: Final = 1_000_000  # positions that only the outbox can fill
RETRY_INTERVAL_S: Final = 1.0
_EXAMPLES: Final = 5

Report = Callable[[str, int, int], None]  # stage, done, total
Place = tuple[str, int]  # topic, partition


@dataclass(slots=True)
class TopicPlan:
    """What one topic lacks."""

    category: str
    topic: str
    partitions: int
    exists: bool
    held: int = 0  # records of ours
    events: int = 0  # that are to be written
    first: int = 0  # their positions
    last: int = 0
    misplaced: int = 0  # of these, before others that their partition holds


@dataclass(frozen=True, slots=True)
class Plan:
    """What Kafka lacks, and where it is to come from."""

    position: int  # that Postgres says was published
    kafka_position: int  # the highest one that Kafka holds
    topics: Sequence[TopicPlan]  # those that lack something
    from_outbox: int  # events that were published and never indexed
    nowhere: int  # positions that nobody holds
    nowhere_ranges: Sequence[tuple[int, int]]
    others: Sequence[str]  # records that stand at the position of another event
    disordered: int
    offsets: Sequence[Ends]  # where indexers have to go on, of each shard: at the first record that it lacks

    @property
    def events(self) -> int:
        """How many events are to be written."""
        return sum(topic.events for topic in self.topics)

    @property
    def obstacles(self) -> list[str]:
        """What keeps it from being done."""
        found = []
        if self.nowhere:
            shown = ", ".join(f"{a:,}" + (f" to {b:,}" if b > a else "") for a, b in self.nowhere_ranges)
            found.append(
                f"{self.nowhere:,} positions are in neither Kafka nor index, and the outbox does not tell which "
                f"events they had: {shown}."
            )
        if self.others:
            found.append(f"Kafka holds other events than the index: {'; '.join(self.others)}. See `gatelog verify`.")
        if self.disordered:
            found.append(f"The order of {self.disordered:,} events that were never indexed cannot be told any more.")
        found += [
            f"Topic {topic.topic!r} lacks {topic.misplaced:,} events before others that it holds: appending them "
            "would break the order. Let the indexer come to the end of the topic, delete it (kafka-topics --delete "
            f"--topic {topic.topic}), and run `gatelog republish` again."
            for topic in self.topics
            if topic.misplaced
        ]
        return found


@asynccontextmanager
async def republication(settings: Settings, report: Report) -> AsyncIterator["Republication"]:
    """Keep every relay of the store out, fence those before, and yield what can fill its topics.

    Raises:
        RelayActiveError: a relay is active.
        StoreNotInitialisedError: ``gatelog init`` has not been run.
        IndexPlaceError: a database is not what the settings say.
        ForeignStoreError: Kafka holds topics of another store of the same name.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time.
    """
    async with relays_kept_out(settings) as (databases, publisher):
        for connection in {databases.gate, *databases.shards}:  # as the relay reads times: see Ticks.prepare
            await connection.set_type_codec(
                "timestamptz", schema="pg_catalog", format="tuple", encoder=lambda us: (us,), decoder=lambda us: us[0]
            )
        yield Republication(databases.settings, databases, publisher, report)


@dataclass(slots=True)
class _Seen:
    """What was read of Kafka."""

    positions: Positions
    ends: Ends
    highest: dict[Place, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unindexed: dict[tuple[int, Place], End] = field(default_factory=dict)  # before the first that a shard lacks
    others: list[str] = field(default_factory=list)


class Republication:
    """What Kafka lacks, and its filling, while no relay can be active."""

    def __init__(
        self,
        settings: Identified,
        databases: Databases,
        publisher: Publisher,
        report: Report,
    ) -> None:
        """Work through ``databases``, of which the gate's connection holds the relay's lock, and ``publisher``."""
        self._settings = settings
        self._properties = settings.kafka_properties
        self._databases = databases
        self._shards = range(len(databases.shards))
        self._connection = databases.gate
        self._publisher = publisher
        self._report = report
        self._sql = queries("gatelog.producer", "republish.sql", settings.store)
        self._source = settings.source

    async def look(self) -> Plan:
        """Return what Kafka lacks now. Changes nothing.

        Raises:
            KafkaUnavailableError: no answer in time.
        """
        return (await self._look())[0]

    async def apply(self) -> Plan:
        """Write what Kafka lacks, and return what was found before; its ``offsets`` are those after.

        What an earlier run has written is not written again. A relay can start afterwards.

        Raises:
            ReconcileRefusedError: something cannot be repaired. Nothing was written.
            KafkaUnavailableError: no answer in time. The next run goes on.
        """
        plan, seen = await self._look()
        self._publisher.last.update(seen.highest)
        if plan.obstacles:
            raise ReconcileRefusedError(" ".join([*plan.obstacles, "Nothing was written."]))
        await self._fill(plan, seen)
        after = plan if not plan.events else (await self._look())[0]
        if after.events or after.obstacles:
            raise ReconcileRefusedError(
                f"{after.events:,} events are still missing in Kafka after they were written. Does somebody delete "
                "records, or a topic, at this moment? Run `gatelog republish` again."
            )
        ends = await asyncio.to_thread(Topics(self._settings).of_store)
        stands = await asyncio.to_thread(tail.stands_of, self._properties, ends)
        await self._connection.execute(
            self._sql["checked"],
            after.kafka_position,
            tail.ends_as_json(tail.with_positions(stands, self._publisher.last)),
        )
        return replace(plan, offsets=after.offsets, kafka_position=after.kafka_position)

    async def _look(self) -> tuple[Plan, _Seen]:
        await self._connection.execute(self._sql["make_tables"])
        state = await self._connection.fetchrow(self._sql["state"])
        assert state is not None
        topics = await asyncio.to_thread(Topics(self._settings).of_store)
        _, highest = await IndexCopy(self._databases).state()
        seen = await self._read_kafka(topics, max(highest, state["position"] + state["pending_events"]))
        known = Positions(1, state["position"])
        plans = await self._plans(topics)
        async for position, stream in self._indexed():
            known.add(position)
            if position not in seen.positions:
                self._lacks(plans, seen, position, stream)
        missing = list(self._unknown(known, seen))
        again = await self._again(missing, restored=state["restarted"])
        rows = await self._connection.fetch(self._sql["again"]) if again else []
        for row in rows:
            self._lacks(plans, seen, row["position"], row["stream"])
        total = sum(last - first + 1 for first, last in missing)
        kafka_position = max(seen.highest.values(), default=0)
        return Plan(
            position=state["position"],
            kafka_position=kafka_position,
            topics=[plan for plan in plans.values() if plan.events],
            from_outbox=again,
            nowhere=total - again,
            nowhere_ranges=missing[:_EXAMPLES] if total > again else [],
            others=seen.others,
            disordered=await self._disordered(rows),
            offsets=[
                {
                    name: [seen.unindexed.get((shard, (name, p)), end) for p, end in enumerate(ends)]
                    for name, ends in seen.ends.items()
                }
                for shard in self._shards
            ],
        ), seen

    async def _read_kafka(self, topics: dict[str, int], highest: int) -> _Seen:
        begins = await asyncio.to_thread(tail.begins_of, self._properties, topics)
        ends = await asyncio.to_thread(tail.stands_of, self._properties, topics)
        seen = _Seen(Positions(1, highest), ends)
        upto = offsets_of(ends)
        total, read = sum(map(sum, upto.values())) - sum(map(sum, begins.values())), 0
        async with aclosing(tail.stream(self._properties, begins, upto)) as chunks:
            async for chunk in chunks:
                await self._see(seen, chunk)
                read += len(chunk)
                self._report("read Kafka", min(read, total), total)
        return seen

    async def _see(self, seen: _Seen, messages: Sequence[Message]) -> None:
        ours = [(message, record) for message in messages for record in self._parsed(message)]
        there = await self._ids_at(record for _, record in ours)
        lacking = [record.id for _, record in ours if there.get(record.position) != record.id]
        await self._connection.execute(self._sql["keep_found"], lacking)
        for message, record in ours:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            assert topic is not None
            assert partition is not None
            assert offset is not None
            place = (topic, partition)
            held = there.get(record.position)
            if held is not None and held != record.id and len(seen.others) < _EXAMPLES:
                seen.others.append(f"{topic} partition {partition} offset {offset} at position {record.position:,}")
            if held != record.id:
                at = (self._databases.shard_of(record.stream), place)
                seen.unindexed.setdefault(at, End(offset, histories.epoch_of(message)))
            seen.positions.add(record.position)
            seen.highest[place] = max(record.position, seen.highest.get(place, 0))
            seen.held[topic] += 1

    async def _ids_at(self, records: Iterable[Record]) -> dict[int, UUID]:
        """Return the ids of what the shards of these records hold at their positions."""
        wanted: dict[int, list[int]] = defaultdict(list)
        for record in records:
            wanted[self._databases.shard_of(record.stream)].append(record.position)
        return {
            row["position"]: row["event_id"]
            for shard, positions in wanted.items()
            for row in await self._databases.ask(shard, self._sql["ids_at"], positions)
        }

    def _parsed(self, message: Message) -> Iterable[Record]:
        """What others wrote is not for us to judge: indexers report it."""
        try:
            return [parse_record(self._source, message.headers(), message.value())]
        except UndecodableRecordError:
            return []

    async def _plans(self, topics: dict[str, int]) -> "_Plans":
        widths: dict[str, int] = {}
        for rows in await self._databases.ask_all(self._sql["widths"]):
            widths |= {row["topic"]: max(row["partitions"], widths.get(row["topic"], 0)) for row in rows}
        return _Plans(self._settings, topics, widths)

    def _lacks(self, plans: "_Plans", seen: _Seen, position: int, stream: str) -> None:
        plan = plans[category_of(stream)]
        plan.held = seen.held.get(plan.topic, 0)
        plan.events += 1
        plan.first = min(position, plan.first or position)
        plan.last = max(position, plan.last)
        place = (plan.topic, partition_of(stream, plan.partitions))
        plan.misplaced += position < seen.highest.get(place, 0)

    async def _indexed(self) -> AsyncIterator[tuple[int, str]]:
        """Yield position and stream of all that is indexed, shard by shard."""
        read = 0
        for shard in self._shards:
            after = 0
            while rows := await self._databases.ask(shard, self._sql["indexed"], after, PAGE_ROWS * 10):
                for row in rows:
                    yield row["position"], row["stream"]
                after = rows[-1]["position"]
                read += len(rows)
                self._report("read the index", read, read)

    @staticmethod
    def _unknown(indexed: Positions, seen: _Seen) -> list[tuple[int, int]]:
        """Return the ranges of positions that neither the index nor Kafka holds."""
        found: list[tuple[int, int]] = []
        for first, last in indexed.gaps():
            for position in range(first, last + 1):
                if position in seen.positions:
                    continue
                if found and found[-1][1] == position - 1:
                    found[-1] = (found[-1][0], position)
                else:
                    found.append((position, position))
        return found

    async def _again(self, missing: Sequence[tuple[int, int]], *, restored: bool) -> int:
        """Give the missing positions to the events of the outbox that had them, if it is as many."""
        positions = [position for first, last in missing for position in range(first, last + 1)]
        if not positions or restored or len(positions) > AGAIN_EVENTS_MAX:
            return 0
        ids: list[int] = []
        async for each in self._unindexed():
            ids.append(each)
            if len(ids) > len(positions):
                return 0
        if len(ids) < len(positions):
            return 0
        records = list(zip(positions, ids, strict=True))
        await self._connection.copy_records_to_table("again", columns=("position", "id"), records=records)
        return len(records)

    async def _unindexed(self) -> AsyncIterator[int]:
        """Yield the outbox ids of what was published, and is neither in Kafka nor in the index."""
        after = 0
        while rows := await self._connection.fetch(self._sql["published_only"], after, PAGE_ROWS):
            ids = [row["event_id"] for row in rows]
            pages = await self._databases.ask_all(self._sql["held"], ids)
            held = {row["event_id"] for page in pages for row in page}
            for row in rows:
                if row["event_id"] not in held:
                    yield row["id"]
            after = rows[-1]["id"]

    async def _disordered(self, rows: Sequence[asyncpg.Record]) -> int:
        columns = [[row[column] for row in rows] for column in ("position", "stream", "version")]
        return sum(row["events"] for (row,) in await self._databases.ask_all(self._sql["disordered"], *columns))

    async def _fill(self, plan: Plan, seen: _Seen) -> None:
        for topic in plan.topics:
            wanted = self._settings.model_copy(update={"topic_partitions": topic.partitions})
            await asyncio.to_thread(Topics(wanted).ensure, {topic.category})
            self._publisher.partitions[topic.topic] = topic.partitions
        categories = [topic.category for topic in plan.topics]
        number = written = 0
        sources: list[Page] = [partial(self._databases.ask, n, self._sql["rows"], categories) for n in self._shards]
        sources.append(partial(self._connection.fetch, self._sql["rows_again"], categories))
        async for rows in by_position(sources, PAGE_ROWS):
            if due := [row for row in rows if row["position"] not in seen.positions]:
                number += 1
                await self._publish(Tick(number, 0, due, [row["position"] for row in due]))
                written += len(due)
                self._report("write records", written, plan.events)

    async def _publish(self, tick: Tick) -> None:
        while True:
            try:
                await asyncio.to_thread(self._publisher.send, tick)
                await asyncio.to_thread(self._publisher.commit, tick)
            except TickAbortedError:
                await asyncio.sleep(RETRY_INTERVAL_S)
            else:
                return


class _Plans(dict[str, TopicPlan]):
    """Plans by category, made when they are asked for: with the partitions that a topic has, had, or is to have."""

    def __init__(self, settings: Settings, topics: dict[str, int], widths: dict[str, int]) -> None:
        self._partitions = {**widths, **topics}
        self._existing = topics
        self._settings = settings
        super().__init__()

    def __missing__(self, category: str) -> TopicPlan:
        topic = topic_of(self._settings.store, category)
        partitions = self._partitions.get(topic, self._settings.topic_partitions)
        plan = self[category] = TopicPlan(category, topic, partitions, topic in self._existing)
        return plan
