"""Tables of a store are lost, or were changed: every command says which, and what brings them back."""

import asyncio

import asyncpg
import pytest
from support.reconciling import append, pipeline, publish, repair

from gatelog.console.store import bring_up, examine
from gatelog.core.errors import LogMismatchError, StoreAwaitsError, StoreNotInitialisedError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader

Connection = asyncpg.Connection[asyncpg.Record] if False else asyncpg.Connection


async def test_what_was_lost_or_changed_is_named_and_made_as_it_was(settings: Settings, connection: Connection) -> None:
    s = settings.store
    for damage, named in {
        f"DROP TABLE {s}.events CASCADE": {"table events", "view indexed_events", "view event_log"},
        f"DROP TABLE {s}.outbox_1": {"table outbox_1"},
    }.items():
        await connection.execute(damage)
        (found,) = await examine(settings)
        assert {str(each) for each in found.mended} == named
        (done,) = await bring_up(settings)
        assert {str(each) for each in done.mended} == named
        (after,) = await examine(settings)
        assert after.is_whole
