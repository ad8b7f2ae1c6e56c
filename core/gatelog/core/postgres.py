"""Postgres access: pools and connections, and foreign errors translated once, by class, never by text."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from gatelog.core.errors import (
    GatelogError,
    PostgresUnavailableError,
    SettingsError,
    StoreNotInitialisedError,
)

if TYPE_CHECKING:  # these classes are generic in the type stubs only
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    PooledConnection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PooledConnection
    Prepare: TypeAlias = Callable[[asyncpg.Connection[asyncpg.Record]], Coroutine[None, None, None]]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection

CONNECT_TIMEOUT_S: Final = 10.0

_LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg says when a connection dies while it prepares a statement
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
)
_MISSING: Final = (
    asyncpg.InvalidSchemaNameError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
)
_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)


def where(dsn: str) -> str:
    """Return a DSN without its secrets, for messages."""
    parts = urlsplit(dsn)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


@contextmanager
def translated(store: str, dsn: str) -> Iterator[None]:
    """Turn asyncpg's errors into gatelog's; unknown ones go through.

    Raises:
        PostgresUnavailableError: no answer, or the connection ended.
        StoreNotInitialisedError: the tables are missing.
        SettingsError: Postgres refused the user or the database.
    """
    try:
        yield
    except GatelogError:
        raise
    except _MISSING as error:
        raise StoreNotInitialisedError(store, 0, 1) from error
    except _REFUSED as error:
        raise SettingsError(f"Postgres at {where(dsn)} refused the connection: {error}") from error
    except _LOST as error:
        raise PostgresUnavailableError(
            f"Postgres at {where(dsn)} does not answer or ended the connection "
            f"({type(error).__name__}: {error}). Is it running? Local one: `gatelog status`."
        ) from error


async def connect(dsn: str, store: str, application_name: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Return one connection of its own, for LISTEN or session locks; the caller closes it.

    Raises:
        PostgresUnavailableError: no answer within 10 s.
        SettingsError: Postgres refused the user or the database.
    """
    with translated(store, dsn):
        return await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": application_name}
        )


async def _leave_as_it_is(_connection: object) -> None:
    """Nothing of ours changes a session, and the default reset is a round trip at each release."""


@asynccontextmanager
async def pool(
    dsn: str, store: str, application_name: str, size_max: int, prepare: "Prepare | None" = None
) -> AsyncIterator[Pool]:
    """Yield a pool of up to ``size_max`` connections, opened as needed, closed at the end.

    ``prepare`` is called with each new connection.

    Raises:
        PostgresUnavailableError: no answer within 10 s.
        SettingsError: Postgres refused the user or the database.
    """
    with translated(store, dsn):
        made = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size_max,
            timeout=CONNECT_TIMEOUT_S,
            init=prepare,
            reset=_leave_as_it_is,
            server_settings={"application_name": application_name},
        )
    try:
        yield made
    finally:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await made.close()
        except TimeoutError:
            made.terminate()
