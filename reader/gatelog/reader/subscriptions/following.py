"""Follows a store live, in one total order, from a position on: for programs that keep their position themselves."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

from gatelog.core import postgres
from gatelog.core.errors import InvalidInputError
from gatelog.core.identity import identified
from gatelog.core.settings import Settings
from gatelog.reader.names import category_names, type_names
from gatelog.reader.subscriptions.checkpoints import Checkpoint
from gatelog.reader.subscriptions.history import History
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET
from gatelog.reader.subscriptions.merge import Place
from gatelog.reader.subscriptions.ordered import TotalOrder
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.event import Event
from gatelog.schemas.parts import as_read
from gatelog.schemas.registries import registry_of


@asynccontextmanager
async def total_order(
    settings: Settings, *, after: int = 0, categories: Collection[str] | None = None
) -> AsyncIterator[TotalOrder]:
    """Yield the events of a store, or of some categories, after a position.

    Raises:
        PostgresUnavailableError: no answer.
    """
    start = Checkpoint(after, UNKNOWN_OFFSET) if after else Checkpoint(0, 0)

    async def meet(places: Collection[Place]) -> Mapping[Place, Checkpoint]:
        return dict.fromkeys(places, start)

    async with postgres.pool(settings.dsn, settings.store, "gatelog follow", 2) as pool:
        codec = Codec(registry_of(settings, pool), register=False)
        order = TotalOrder(await identified(settings, pool), codec, History(settings, pool, codec), categories, meet)
        try:
            yield order
        finally:
            await order.close()


async def follow(
    *,
    after: int = 0,
    categories: Iterable[str] | None = None,
    types: Iterable[type[Event] | str] | None = None,
    stop: asyncio.Event | None = None,
    settings: Settings | None = None,
) -> AsyncIterator[RecordedEvent]:
    """Yield events in order of positions over all partitions and topics, as they come, until ``stop`` is set.

    It joins no group and remembers nothing: keep ``event.position``, and begin ``after`` it the next time. What is
    gone from Kafka comes from the index.

    Raises:
        InvalidInputError: ``after`` is negative.
        LogMismatchError: positions are missing that no unreadable record accounts for.
        HistoryGoneError: events are neither in Kafka nor in the index.
        ForeignStoreError: a topic is another store's of the same name.
        KafkaUnavailableError, PostgresUnavailableError: no answer.
    """
    if after < 0:
        raise InvalidInputError(f"Follow after position {after}: positions begin at 1.")
    wanted = None if types is None else frozenset(type_names(types))
    names = None if categories is None else category_names(categories)
    ended = stop or asyncio.Event()
    async with total_order(settings or Settings.load(), after=after, categories=names) as order:
        async for batch in order.batches(ended):
            for event in as_read(batch.events, wanted):
                yield event
                if ended.is_set():
                    return
