"""Which topics an index was read from: one that was deleted and made again is recognised, not read as new."""

from collections.abc import Collection, Mapping
from typing import Final

from gatelog.core import asking, histories, kafka, postgres, tail
from gatelog.core.errors import LogMismatchError
from gatelog.core.sql import queries

_PACKAGE: Final = "gatelog.indexer"


def of_names(properties: dict[str, str], names: Collection[str]) -> dict[str, int]:
    """Return those of ``names`` that exist, with their number of partitions. Blocks.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    found = kafka.partitions_of(kafka.admin(properties), properties)
    return {name: found[name] for name in names if name in found}


def of_store(properties: dict[str, str], store: str) -> dict[str, int]:
    """Return all topics of a store, with their number of partitions. Blocks.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    return kafka.topics_of(kafka.admin(properties), properties, store)


async def claim(pool: postgres.Pool, schema: str, ids: dict[str, str]) -> None:
    """Store the ids of topics that are new to the index, and refuse those that had another id before.

    Raises:
        LogMismatchError: a topic was deleted and made again.
    """
    sql = queries(_PACKAGE, "index.sql", schema)
    names = sorted(ids)
    values = [ids[name] for name in names]
    await pool.execute(sql["claim_topics"], names, values)
    others = [row["topic"] for row in await pool.fetch(sql["other_topics"], names, values)]
    if others:
        raise LogMismatchError(
            f"Topics were deleted and made again since they were indexed: {', '.join(others)}. What they hold is not "
            "read as new. `gatelog republish` fills them from the index; nothing was skipped."
        )


def check_ends(properties: dict[str, str], stored: Mapping[tuple[str, int], asking.End]) -> None:
    """Refuse to go on where a partition does not hold any more what was indexed of it. Blocks.

    Raises:
        LogMismatchError: brokers lost the end of one, whether it has grown again since or not.
        KafkaUnavailableError: no answer in time.
    """
    there = of_names(properties, {name for name, _ in stored})
    ends = histories.flat(tail.stands_of(properties, there))
    known = {place: end for place, end in stored.items() if place in ends}  # those that are gone are named elsewhere
    if lost_ends := histories.differences(properties, known, ends):
        raise LogMismatchError(
            f"{'. '.join(lost_ends.values())}: brokers have lost what was indexed from there (an unclean election), "
            "or it was made anew. Nothing was skipped, nothing more is indexed. `gatelog republish` writes it again."
        )


def lost(names: Collection[str]) -> LogMismatchError:
    """Return the error that says that topics are gone."""
    return LogMismatchError(
        f"Topics that were indexed are gone from Kafka: {', '.join(sorted(names))}. What was indexed is kept; "
        "there is no more to read. `gatelog republish` makes them again and fills them from the index."
    )


async def accept(pool: postgres.Pool, schema: str, ids: dict[str, str], ends: tail.Ends) -> list[str]:
    """Take topics that were made anew for the old ones, go on in all at ``ends``, and return which were made anew.

    Only right when the index holds every record before these ends.
    """
    sql = queries(_PACKAGE, "index.sql", schema)
    names = sorted(ids)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(sql["lock_claims"])
        rows = await connection.fetch(sql["accept_topics"], names, [ids[name] for name in names])
        anew = sorted(row["topic"] for row in rows)
        await connection.execute(sql["forget_offsets"], names)
        places = [(name, p, end.offset, end.epoch) for name in names for p, end in enumerate(ends[name])]
        columns = ([place[column] for place in places] for column in range(4))
        await connection.execute(sql["set_offsets"], *columns)
    return anew
