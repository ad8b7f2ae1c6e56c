"""Topics that are deleted and made again after a restart of their brokers: the epochs of leaders begin anew there."""

import asyncio
from typing import Literal

import asyncpg
import pytest
from support.losses import lose_topic
from support.projections import fill, keeping, schema_of
from support.reconciling import pipeline, publish, republish
from support.subscribing import consuming
from support.waiting import until

from gatelog.console.store import initialise
from gatelog.core.settings import Settings
from gatelog.local import LocalServices
from gatelog.producer import Producer
from gatelog.reader import Projection, Subscription
from gatelog.schemas import RecordedEvent


@pytest.mark.parametrize("kind", ["partition", "total", "consumer", "classic"])
async def test_a_reader_that_runs_meanwhile_goes_on(
    own: LocalServices, kind: Literal["partition", "total", "consumer", "classic"]
) -> None:
    found = await asyncio.to_thread(own.up)
    settings = Settings.load(
        store="again",
        home=own.home,
        postgres_dsn=found.postgres_dsn,
        kafka={"bootstrap.servers": found.kafka_bootstrap_servers},
        topic_partitions=2,
        subscription_protocol=kind if kind in {"consumer", "classic"} else "auto",
    )
    await initialise(settings)
    rows, seen = await asyncpg.connect(settings.dsn), list[int]()
    reader: Projection | Subscription = Subscription("kept")
    if kind in {"partition", "total"}:
        reader = keeping("kept", settings, order=kind)
        await reader.prepare(settings)
    elif isinstance(reader, Subscription):

        @reader.on()
        async def note(event: RecordedEvent) -> None:
            assert event.position is not None
            seen.append(event.position)

    async def positions() -> list[int]:
        if isinstance(reader, Subscription):
            return seen
        query = f'SELECT position FROM "{schema_of("kept", settings)}".seen ORDER BY nth'
        return [row["position"] for row in await rows.fetch(query)]

    async def has(events: int) -> None:
        async def are_there() -> bool:
            return len(await positions()) >= events

        await until(are_there, f"{events} events are handled")

    async with Producer.connect(settings) as producer:
        await fill(producer, 20, ["Note"])
        await publish(settings, 20)
        await asyncio.to_thread(own.down, only="kafka")
        await asyncio.to_thread(own.up, only="kafka")
        async with consuming(reader, settings):
            await has(20)
            await lose_topic(settings, "Note")
            await republish(settings)
            async with pipeline(settings):
                await fill(producer, 20, ["Note"])
                await has(40)
    assert sorted(await positions()) == list(range(1, 41))
    await rows.close()
