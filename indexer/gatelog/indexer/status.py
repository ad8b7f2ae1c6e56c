"""Where the index stands."""

from collections.abc import Sequence
from dataclasses import dataclass

from gatelog.core import postgres
from gatelog.core.sql import queries


@dataclass(frozen=True)
class IndexStatus:
    """A look at the index: nothing is missing up to ``frontier``; ``highest`` is the highest position in it."""

    indexer_is_active: bool
    frontier: int
    highest: int
    unreadable: int

    @classmethod
    def of_shards(cls, shards: Sequence["IndexStatus"]) -> "IndexStatus":
        """Return what the shards of an index are together."""
        return cls(
            all(each.indexer_is_active for each in shards),
            min(each.frontier for each in shards),
            max(each.highest for each in shards),
            sum(each.unreadable for each in shards),
        )


async def status(connection: postgres.Connection, store: str) -> IndexStatus:
    """Return where the index of a store stands now."""
    row = await connection.fetchrow(queries("gatelog.indexer", "index.sql", store)["status"])
    assert row is not None
    return IndexStatus(row["indexer_is_active"], row["frontier"], row["highest"], row["unreadable"])
