"""Postgres access: pools and connections, and foreign errors translated once, by class, never by text."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, TypeVar

import asyncpg
from asyncpg.transaction import Transaction

from gatelog.core import dsns
from gatelog.core.errors import (
    GatelogError,
    PostgresUnavailableError,
    SettingsError,
    StoreAwaitsError,
    StoreNotInitialisedError,
)
from gatelog.core.sql import queries

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
HOST_TIMEOUT_S: Final = 3.0  # of one of several: it may have vanished
CLOSE_TIMEOUT_S: Final = 5.0
_STATEMENT_MODE_ATTEMPTS: Final = 3
_PACKAGE: Final = "gatelog.core"
_AS_EVER: Final = {"isolation": "read_committed", "readonly": False, "deferrable": False}  # of a transaction

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
FAILED: Final = (*_LOST, asyncpg.PostgresError)  # whatever a statement may raise
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
        raise SettingsError(f"Postgres at {dsns.where(dsn)} refused the connection: {error}") from error
    except _LOST as error:
        raise PostgresUnavailableError(
            f"Postgres at {dsns.where(dsn)} does not answer or ended the connection "
            f"({type(error).__name__}: {error}). Is it running? Local one: `gatelog status`."
        ) from error
    except asyncpg.PostgresError as error:
        if error.sqlstate != _AWAITS:
            raise
        raise StoreAwaitsError(store, str(error)) from error


class TransactionConnection(_AnyConnection):
    """A connection of which every statement is a transaction of its own, always in the same history of one Postgres.

    A pooler in transaction mode lends a session for no longer, and the next one may be of a standby that was promoted
    meanwhile: what a session would remember is set in each, and what we know of another history is not used there.
    """

    _local_settings = ""  # statements that go before all others of a transaction
    _begins = False  # one is at its first statement

    def set_locally(self, statements: str) -> None:
        """Begin every transaction with these, ``SET LOCAL …``, besides those that it begins with already."""
        self._local_settings += f"{statements}\n;\n"

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if self._begins or self.is_in_transaction():
            return await super().execute(query, *args, timeout=timeout)
        async with self.transaction():
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

    def transaction(self, **chosen: Any) -> Transaction:  # noqa: ANN401 - asyncpg's own
        """As asyncpg's, with the local settings at its beginning."""
        if self.is_closed():
            raise asyncpg.InterfaceError("connection is closed")
        return _LentTransaction(self, **{**_AS_EVER, **chosen})

    def is_in_transaction(self) -> bool:
        """As asyncpg's, of a connection that was terminated too."""
        return not self.is_closed() and super().is_in_transaction()

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[None]:
        if self.is_in_transaction():
            yield
            return
        async with self.transaction():
            yield


class _LentTransaction(Transaction):
    def __init__(self, connection: TransactionConnection, **chosen: Any) -> None:  # noqa: ANN401 - asyncpg's own
        super().__init__(connection, **chosen)
        self._lent = connection

    async def start(self) -> None:
        lent, is_outer = self._lent, not self._lent.is_in_transaction()
        lent._begins = True
        try:
            await super().start()
        finally:
            lent._begins = False
        if is_outer and lent._local_settings:
            with terminated_unless_well(lent):
                try:
                    await lent.execute(lent._local_settings)
                except asyncpg.FeatureNotSupportedError as error:
                    raise asyncpg.ReadOnlySQLTransactionError("a standby takes no writes") from error


def is_lent(connection: Connection) -> TypeGuard[TransactionConnection]:
    """Say whether it is a ``TransactionConnection``: ``isinstance`` says yes to any of asyncpg's."""
    return type(connection) is TransactionConnection


def _session(scope: str, *names: str) -> str:
    sql = queries(_PACKAGE, "session.sql", "any")
    return "\n;\n".join(sql[name] for name in names).replace("@scope", scope)


_Kind = TypeVar("_Kind", bound=_AnyConnection)


async def _reach(dsn: str, application_name: str, kind: type[_Kind], **chosen: Any) -> _Kind:  # noqa: ANN401 - asyncpg's own
    """Connect to the first host that answers and is what was asked for: by default one that takes writes."""
    chosen |= {"server_settings": {"application_name": application_name}}
    several = dsns.hosts(dsns.check("The Postgres DSN", dsn))
    if len(several) == 1:
        return await asyncpg.connect(dsn, connection_class=kind, timeout=CONNECT_TIMEOUT_S, **chosen)
    wanted = dsns.options(dsn).get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS") or "primary"
    error: Exception | None = None
    for kind_of_host in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        for host, port in several:
            chosen |= {"host": host, "port": port, "target_session_attrs": kind_of_host}
            try:
                return await asyncpg.connect(dsn, connection_class=kind, timeout=HOST_TIMEOUT_S, **chosen)
            except (
                OSError,
                TimeoutError,
                asyncpg.CannotConnectNowError,
                asyncpg.TargetServerAttributeNotMatched,
            ) as e:
                error = e
    assert error is not None
    raise error


async def _open(dsn: str, application_name: str, kind: type[_Kind], settings: str, **chosen: Any) -> _Kind:  # noqa: ANN401 - asyncpg's own
    """Connect, and set the session up in a transaction: a pooler in statement mode refuses that.

    It ends the connection then, as others do who pass. It is in that mode if it has answered right before, twice.
    """
    for attempt in range(_STATEMENT_MODE_ATTEMPTS):
        connection = await _reach(dsn, application_name, kind, **chosen)
        with terminated_unless_well(connection):
            if attempt:
                await _AnyConnection.execute(connection, "SELECT")
            try:
                async with connection.transaction():
                    await connection.execute(settings)
            except asyncpg.PostgresConnectionError as error:
                connection.terminate()
                refused = error
            else:
                return connection
    raise SettingsError(
        f"The pooler at {dsns.where(dsn)} lends sessions for one statement only (pool_mode = statement). Gatelog "
        "needs transactions. Use pool_mode = session, or a direct connection."
    ) from refused


async def connect(
    dsn: str, store: str, application_name: str, *, search_path: bool = False
) -> "asyncpg.Connection[asyncpg.Record]":
    """Return one connection of its own, for LISTEN or session locks; the caller closes it.

    ``search_path``: leave it as the role has it, for statements of users.

    Raises:
        PostgresUnavailableError: no answer within 10 s.
        SettingsError: Postgres refused the user or the database, or a pooler is in a mode that cannot work.
    """
    settings = _session("SESSION", *(() if search_path else ("search_path",)), "settings")
    with translated(store, dsn):
        return await _open(dsn, application_name, _AnyConnection, settings)


async def connect_to_look(dsn: str, store: str, application_name: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Return a connection that sets nothing: a pooler may lend its session to others next. See ``settle``."""
    with translated(store, dsn):
        return await _open(dsn, application_name, _AnyConnection, "SELECT")


async def settle(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Set up a session that turned out to be ours, as ``connect`` does."""
    await connection.execute(_session("SESSION", "search_path", "settings"))


async def connect_lent(
    dsn: str, store: str, application_name: str, local_settings: str = ""
) -> TransactionConnection:
    """Return one connection that works behind any pooler; the caller closes it.

    ``local_settings``: statements that go before each of its own, ``SET LOCAL …``.

    Raises:
        PostgresUnavailableError: no answer within 10 s, or from a standby.
        SettingsError: Postgres refused the user or the database, or a pooler is in a mode that cannot work.
    """
    always = _session("LOCAL", "may_write", "search_path", "settings")
    with translated(store, dsn):
        connection = await _open(
            dsn,
            application_name,
            TransactionConnection,
            "SELECT",
            statement_cache_size=0,  # a prepared statement would be left in a session of others
        )
        with terminated_unless_well(connection):
            connection.set_locally(always)
            known = await history_of(connection)
            sql = queries(_PACKAGE, "session.sql", store)
        connection.set_locally(sql["same_history"].replace("@history", sql["history"]).replace("@known", str(known)))
        connection.set_locally(local_settings)
        return connection


async def history_of(connection: Connection) -> str | None:
    """Return which history of which Postgres a connection leads to: a promotion begins another. None: a standby."""
    found: str | None = await connection.fetchval(queries(_PACKAGE, "session.sql", "any")["history"])
    return found


@contextmanager
def terminated_unless_well(connection: _AnyConnection) -> Iterator[None]:
    """End a connection when what is done with it fails."""
    try:
        yield
    except BaseException:
        connection.terminate()
        raise


async def _leave_as_it_is(_connection: object) -> None:
    """Nothing of ours changes a session, and the default reset is a round trip at each release."""


@asynccontextmanager
async def pool(
    dsn: str, store: str, application_name: str, size_max: int, prepare: "Prepare | None" = None
) -> AsyncIterator[Pool]:
    """Yield a pool of up to ``size_max`` connections, opened as needed, closed at the end.

    ``prepare`` is called with each new connection. Who leaves it by an exception waits for nobody who uses one.

    Raises:
        PostgresUnavailableError: no answer within 10 s.
        SettingsError: Postgres refused the user or the database, or a pooler is in a mode that cannot work.
    """
    settings = _session("SESSION", "search_path", "settings")

    async def opened(*_: object, **_of_pool: object) -> "asyncpg.Connection[asyncpg.Record]":
        return await _open(dsn, application_name, _AnyConnection, settings)

    with translated(store, dsn):
        made = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size_max,
            connect=opened,
            init=prepare,
            reset=_leave_as_it_is,
        )
    try:
        yield made
    except BaseException:
        made.terminate()
        raise
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await made.close()
    except TimeoutError:
        made.terminate()
