"""Stores whose index is in other databases than the gate."""

from collections.abc import AsyncIterator

import pytest
from support.databases import sharded

from gatelog.console.store import initialise
from gatelog.core.settings import Settings


@pytest.fixture
async def apart(bare_settings: Settings, spare_dsns: list[str]) -> AsyncIterator[Settings]:
    """Settings of an initialised, empty store whose index is in one database of its own."""
    async with sharded(bare_settings, spare_dsns[:1]) as settings:
        await initialise(settings)
        yield settings


@pytest.fixture
async def shards(bare_settings: Settings, spare_dsns: list[str]) -> AsyncIterator[Settings]:
    """Settings of an initialised, empty store whose index is in two databases of its own."""
    async with sharded(bare_settings, spare_dsns) as settings:
        await initialise(settings)
        yield settings
