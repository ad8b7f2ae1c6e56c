"""What runs on a store whose index is in other databases than its gate."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from gatelog.core.services import Service
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer.elsewhere.frontier import FrontierKeeper
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.schemas import NewEvent
from support.models import Noted
from support.waiting import until


def parts(settings: Settings, *, shards: Sequence[int] | None = None) -> list[Service]:
    """All that publishes and indexes, into some shards or all of them, but for what rotates the outbox."""
    numbers = range(len(settings.index_dsns)) if shards is None else shards
    return [Relay(settings), FrontierKeeper(settings), *(Indexer(settings, number) for number in numbers)]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Yield a bare connection."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def rotate(settings: Settings, gate: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Take a whole turn: what was published before is in the outbox no more."""
    now = settings.model_copy(update={"outbox_segment_events": 1, "outbox_snapshot_age_max_s": 0.0})
    keeper = OutboxKeeper(now)

    async def is_emptied() -> bool:
        return await keeper.run_once(gate) == "emptied"

    await gate.execute("SET lock_timeout = 50")
    await until(is_emptied, "a segment of the outbox is emptied")


async def outbox_events(settings: Settings, gate: "asyncpg.Connection[asyncpg.Record]") -> int:
    """Return how many events are in the outbox."""
    return int(await gate.fetchval(f"SELECT count(*) FROM {settings.store}.outbox"))


def noted(number: int) -> list[NewEvent]:
    """Return new events, each with an id of its own."""
    return [NewEvent(Noted(text=str(nth))) for nth in range(number)]
