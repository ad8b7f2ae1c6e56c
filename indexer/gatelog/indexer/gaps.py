"""Kafka no longer holds an offset where an indexer has to go on: were events removed, or only what holds none?

A partition also has markers of transactions, and records of transactions that were aborted. When retention leaves
nothing but these behind a stored offset, nothing is lost. Offsets do not tell, but positions do: they are gapless, so
that each one that was published has to be in the index or in Kafka still.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Final, TypeAlias

from gatelog.core import logs, tail
from gatelog.core.errors import GatelogError, LogMismatchError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.positions import Positions
from gatelog.core.settings import Settings
from gatelog.core.shards.databases import Databases, opened
from gatelog.core.sql import queries
from gatelog.indexer import seeking, topics
from gatelog.indexer.batches import Place
from gatelog.schemas.envelope import parse_record

PAGE_ROWS: Final = 10_000
SETTLE_WAIT_S: Final = 2.0  # for a tick that is on its way
_SETTLE_INTERVAL_S: Final = 0.05
_PACKAGE: Final = "gatelog.indexer"

Range: TypeAlias = tuple[int, int]  # of positions, both included

_log = logs.logger("indexer")


class GapError(GatelogError):
    """An offset is behind what Kafka holds, and no event is known to be missing: the indexer joins again."""

    retryable = True


async def settle(settings: Settings, shard: int, wanted: Mapping[Place, int]) -> None:
    """Go on behind what Kafka has removed, if it held no event that the index lacks. Without a gap, do nothing.

    ``wanted`` is the next offset of each partition; what was written up to there is committed.

    Raises:
        LogMismatchError: events were removed; with the exact range of offsets. Nothing was skipped.
        GapError: the stored offsets were moved; or it cannot be told yet. Join again.
        PostgresUnavailableError, KafkaUnavailableError: no answer in time.
    """
    properties = settings.kafka_properties
    there = await asyncio.to_thread(topics.of_names, properties, {name for name, _ in wanted})
    begins = await asyncio.to_thread(tail.begins_of, properties, there)
    gaps = {
        (name, p): (offset, begin)
        for (name, p), offset in sorted(wanted.items())
        for begin in begins.get(name, [])[p : p + 1]
        if offset < begin
    }
    if not gaps:
        return
    async with opened(settings, "gatelog indexer") as databases:
        missing, published = await _missing(settings, shard, databases)
        if missing and missing[0][0] <= published:
            raise LogMismatchError(_lost(gaps, missing))
        if missing:
            raise GapError(
                f"Kafka holds no more what stood at {_named(gaps)}. Whether that were events can be told when a "
                f"relay has settled the tick that begins at position {published + 1:,}."
            )
        await _move(settings, shard, databases, gaps)


async def _missing(settings: Settings, shard: int, databases: Databases) -> tuple[list[Range], int]:
    """Return the positions that were given and that nobody holds, and up to which all are certainly published."""
    sql = queries(_PACKAGE, "gaps.sql", settings.store)
    (state,) = await databases.ask(shard, sql["state"])
    frontier: int = state["frontier"]
    published, upto = await _published(databases, sql["published"])
    if state["highest"] > upto:  # then it cannot tell what else there was
        raise LogMismatchError(
            f"The index holds position {state['highest']:,}, but the relay has given positions up to {upto:,} only: "
            "the gate's database was restored from an older state. Nothing was changed."
        )
    seen = Positions(frontier + 1, upto)
    await _see_kafka(databases.settings, seen, frontier + 1)
    for number in range(len(databases.shards)):  # what another shard holds is not ours to miss
        after = frontier
        while rows := await databases.ask(number, sql["positions"], after, upto, PAGE_ROWS):
            for row in rows:
                seen.add(row["position"])
            after = rows[-1]["position"]
        for row in await databases.ask(number, sql["aside"], frontier + 1, upto):
            seen.add(row["position"])
    return list(seen.gaps()), published


async def _see_kafka(settings: Identified, seen: Positions, first: int) -> None:
    """Add the positions from ``first`` on that Kafka holds."""
    properties = settings.kafka_properties
    found = await asyncio.to_thread(topics.of_store, properties, settings.store)
    begins = await asyncio.to_thread(tail.begins_of, properties, found)
    ends = await asyncio.to_thread(tail.ends_of, properties, found)
    source = settings.source
    starts = await asyncio.to_thread(seeking.offsets_of, properties, source, begins, ends, first)
    async with aclosing(tail.stream(properties, starts, ends)) as chunks:
        async for chunk in chunks:
            for message in chunk:
                try:
                    seen.add(parse_record(source, message.headers(), message.value()).position)
                except UndecodableRecordError:
                    continue


async def _published(databases: Databases, statement: str) -> tuple[int, int]:
    """Return up to which position all are in Kafka, and up to which they may be; waits for a tick on its way."""
    row = await databases.gate.fetchrow(statement)
    assert row is not None
    upto: int = row["upto"]
    deadline = asyncio.get_running_loop().time() + SETTLE_WAIT_S
    while row["position"] < upto and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_SETTLE_INTERVAL_S)
        row = await databases.gate.fetchrow(statement)
        assert row is not None
    return min(row["position"], upto), upto


async def _move(settings: Settings, shard: int, databases: Databases, gaps: Mapping[Place, tuple[int, int]]) -> None:
    """Store the offsets at which Kafka begins, by compare-and-set."""
    names, numbers = [name for name, _ in gaps], [p for _, p in gaps]
    since, upto = [offset for offset, _ in gaps.values()], [begin for _, begin in gaps.values()]
    advance = queries(_PACKAGE, "index.sql", settings.store)["advance"]
    await databases.ask(shard, advance, names, numbers, since, upto, [None] * len(gaps))
    _log.warning("indexer.passed_over", offsets=_named(gaps), why="Kafka has removed them; they held no event")
    raise GapError(f"Kafka holds no more what stood at {_named(gaps)}. No event is missing: going on behind it.")


def _named(gaps: Mapping[Place, tuple[int, int]]) -> str:
    return "; ".join(
        f"topic {name!r} partition {p}: offsets {offset:,} to {begin - 1:,}"
        for (name, p), (offset, begin) in gaps.items()
    )


def _lost(gaps: Mapping[Place, tuple[int, int]], missing: list[Range]) -> str:
    total = sum(last - first + 1 for first, last in missing)
    return (
        f"Kafka has removed records that were not indexed yet, by retention or by hand: {_named(gaps)}. {total:,} "
        f"events are in neither, the first at position {missing[0][0]:,}. They are in the outbox still, and nothing "
        "was skipped. Stop the removal first: retention.ms=-1."
    )
