"""Which topics an index was read from: one that was deleted and made again is recognised, not read as new."""

from collections.abc import Iterable
from typing import Final

from confluent_kafka import TopicCollection

from gatelog.core import kafka, postgres
from gatelog.core.domain import topic_of
from gatelog.core.errors import LogMismatchError
from gatelog.core.sql import queries

_PACKAGE: Final = "gatelog.indexer"


def of_store(properties: dict[str, str], store: str) -> dict[str, int]:
    """Return the store's topics with their number of partitions. Blocks.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    prefix = topic_of(store, "")
    found = kafka.partitions_of(kafka.admin(properties), properties)
    return {name: partitions for name, partitions in found.items() if name.startswith(prefix)}


def ids_of(properties: dict[str, str], topics: Iterable[str]) -> dict[str, str]:
    """Return the ids that Kafka gave topics when they were made. Blocks.

    Raises:
        KafkaUnavailableError: no answer in time.
    """
    names = sorted(set(topics))
    if not names:
        return {}
    client = kafka.admin(properties)
    with kafka.translated(properties):
        asked = client.describe_topics(TopicCollection(names), request_timeout=kafka.REQUEST_TIMEOUT_S)
        return {name: str(future.result().topic_id) for name, future in asked.items()}


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
