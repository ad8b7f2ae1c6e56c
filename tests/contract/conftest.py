"""Each contract test runs on the real store and on the one in memory."""

from collections.abc import AsyncIterator

import pytest
from support.stores import Store

from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader
from gatelog.testing import MemoryStore


@pytest.fixture(params=["memory", "postgres"])
def real(request: pytest.FixtureRequest) -> Settings | None:
    """Settings of a real store; the store in memory needs no services."""
    return request.getfixturevalue("settings") if request.param == "postgres" else None


@pytest.fixture
async def store(real: Settings | None) -> AsyncIterator[Store]:
    if real is None:
        memory = MemoryStore()
        yield Store(memory.producer, memory.reader)
    else:
        async with Producer.connect(real) as producer, Reader.connect(real) as reader:
            yield Store(producer, reader)
