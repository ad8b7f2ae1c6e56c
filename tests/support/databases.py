"""Databases of their own beside the shared one, for an index that lives outside the gate's."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from gatelog.core.settings import Settings


@asynccontextmanager
async def database(dsn: str) -> AsyncIterator[str]:
    """Yield the DSN of a new, empty database on the same server; dropped at the end, whoever is connected."""
    name = f"gatelog_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield urlsplit(dsn)._replace(path=f"/{name}").geturl()
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()


@asynccontextmanager
async def sharded(settings: Settings, shards: int) -> AsyncIterator[Settings]:
    """Yield settings with an index in as many databases; they have no tables yet."""
    async with AsyncExitStack() as opened:
        dsns = [await opened.enter_async_context(database(settings.dsn)) for _ in range(shards)]
        yield settings.model_copy(update={"index_dsns": tuple(map(SecretStr, dsns))})
