"""A store on servers of a test's own."""

import asyncio
from typing import Any

from gatelog.console.store import initialise
from gatelog.core.settings import Settings
from gatelog.local import LocalServices


async def store_on(own: LocalServices, **more: Any) -> Settings:  # noqa: ANN401 - settings, as they come
    """Start the servers, and make a new store there."""
    found = await asyncio.to_thread(own.up)
    settings = Settings.load(
        store="swept",
        home=own.home,
        postgres_dsn=found.postgres_dsn,
        kafka={"bootstrap.servers": found.kafka_bootstrap_servers},
        topic_partitions=3,
        **more,
    )
    await initialise(settings)
    return settings
