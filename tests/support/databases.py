"""Databases beside the shared one, for an index that lives outside the gate's."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
from pydantic import SecretStr

from gatelog.core.settings import Settings


@asynccontextmanager
async def databases(dsn: str, number: int) -> AsyncIterator[list[str]]:
    """Yield the DSNs of new, empty databases on the same server; dropped at the end, whoever is connected.

    To drop one makes the server write all that it has in memory: do not make one for each test.
    """
    names = [f"gatelog_{secrets.token_hex(6)}" for _ in range(number)]
    connection = await asyncpg.connect(dsn)
    try:
        for name in names:
            await connection.execute(f"CREATE DATABASE {name}")
        yield [urlsplit(dsn)._replace(path=f"/{name}").geturl() for name in names]
    finally:
        for name in names:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()


@asynccontextmanager
async def sharded(settings: Settings, dsns: Sequence[str]) -> AsyncIterator[Settings]:
    """Yield settings with an index in these databases; the store's tables there are dropped at the end."""
    yield settings.model_copy(update={"index_dsns": tuple(map(SecretStr, dsns))})
    for dsn in dsns:
        connection = await asyncpg.connect(dsn)
        await connection.execute(f'DROP SCHEMA IF EXISTS "{settings.store}" CASCADE')
        await connection.close()
