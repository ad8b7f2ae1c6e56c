"""Postgres access: pools and connections, and foreign errors translated once, by class, never by text."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard
from urllib.parse import urlsplit

import asyncpg

from gatelog.core.errors import (
    GatelogError,
    PostgresUnavailableError,
    SettingsError,
    StoreAwaitsError,
    StoreNotInitialisedError,
)

if TYPE_CHECKING:  # these classes are generic in the type stubs only
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    PooledConnection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PooledConnection
    _AnyConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Prepare: TypeAlias = Callable[[asyncpg.Connection[asyncpg.Record]], Coroutine[None, None, None]]
else:
    Pool = asyncpg.Pool
    Connection = _AnyConnection = asyncpg.Connection

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
_AWAITS: Final = "GL001"  # the store's own functions raise it
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
        StoreNotInitialisedError: the tables are missing, or one of them.
        StoreAwaitsError: a table was lost, and is not filled again.
        SettingsError: Postgres refused the user or the database.
    """
    try:
        yield
    except GatelogError:
        raise
    except _MISSING as error:
        raise StoreNotInitialisedError(store, 0, 1, str(error)) from error
    except _REFUSED as error:
        raise SettingsError(f"Postgres at {where(dsn)} refused the connection: {error}") from error
    except _LOST as error:
        raise PostgresUnavailableError(
            f"Postgres at {where(dsn)} does not answer or ended the connection "
            f"({type(error).__name__}: {error}). Is it running? Local one: `gatelog status`."
        ) from error
    except asyncpg.PostgresError as error:
        if error.sqlstate != _AWAITS:
            raise
        raise StoreAwaitsError(store, str(error)) from error


class TransactionConnection(_AnyConnection):
    """A connection of which every statement is a transaction of its own.

    A pooler in transaction mode lends a session for no longer: what a session would remember is set in each.
    """

    local_settings = ""  # statements: SET LOCAL …

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As asyncpg's; without arguments it goes out as it is."""
        if not args:
            return await super().execute(query, timeout=timeout)
        async with self._lent():
            return await super().execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401 - the stubs have overloads for classes of records
        """As asyncpg's."""
        async with self._lent():
            return await super().fetch(query, *args, timeout=timeout)

    async def fetchrow(self, query: str, *args: object, timeout: float | None = None) -> Any:  # type: ignore[override]  # noqa: ANN401 - see fetch
        """As asyncpg's."""
        async with self._lent():
            return await super().fetchrow(query, *args, timeout=timeout)

    async def fetchval(self, query: str, *args: object, column: int = 0, timeout: float | None = None) -> Any:  # noqa: ANN401 - as asyncpg's
        """As asyncpg's."""
        async with self._lent():
            return await super().fetchval(query, *args, column=column, timeout=timeout)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[None]:
        if self.is_in_transaction():
            yield
            return
        async with self.transaction(isolation="read_committed"):
            if self.local_settings:
                await super().execute(self.local_settings)
            yield


def is_lent(connection: Connection) -> TypeGuard[TransactionConnection]:
    """Say whether it is a ``TransactionConnection``: ``isinstance`` says yes to any of asyncpg's."""
    return type(connection) is TransactionConnection


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


async def connect_lent(
    dsn: str, store: str, application_name: str, local_settings: str = ""
) -> TransactionConnection:
    """Return one connection that works behind any pooler; the caller closes it.

    ``local_settings``: statements that go before each of its own, ``SET LOCAL …``.

    Raises:
        PostgresUnavailableError: no answer within 10 s.
        SettingsError: Postgres refused the user or the database.
    """
    with translated(store, dsn):
        connection: TransactionConnection = await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": application_name},
            connection_class=TransactionConnection,
            statement_cache_size=0,  # a prepared statement would be left in a session of others
        )
    connection.local_settings = local_settings
    return connection


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
