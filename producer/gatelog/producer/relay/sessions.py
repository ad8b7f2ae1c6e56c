"""Whether a connection has a Postgres session of its own. Behind a pooler in transaction mode it has not.

There, a notification reaches nobody, and a session lock stays behind in a session that serves others.
"""

import asyncio
import secrets
from typing import Final

import asyncpg

from gatelog.core import dsns, logs, postgres, services
from gatelog.core.sql import queries

SELF_TEST_TIMEOUT_S: Final = 5.0
_PACKAGE: Final = "gatelog.producer"

# What Postgres says when the parts of one request reach different sessions.
_MIXED_UP: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)

_log = logs.logger("relay")


async def connect(dsn: str, store: str) -> postgres.Connection:
    """Return a connection for a relay: a ``TransactionConnection`` where a pooler lends sessions for no longer.

    Raises:
        PostgresUnavailableError: no answer within 10 s.
        SettingsError: Postgres refused the user or the database.
    """
    connection = await postgres.connect_to_look(dsn, store, "gatelog relay")
    with postgres.terminated_unless_well(connection), postgres.translated(store, dsn):
        if await _is_own(connection, store, dsn):
            await postgres.settle(connection)
            return connection
    connection.terminate()
    _log.warning(
        "relay.pooled",
        postgres=dsns.where(dsn),
        hint="A pooler in transaction mode: notifications do not arrive, so the relay polls (poll_interval_s). It "
        "leads by a lease instead of a lock. A DSN that goes to Postgres directly is faster.",
    )
    return await postgres.connect_lent(dsn, store, "gatelog relay")


async def _is_own(connection: postgres.Connection, store: str, dsn: str) -> bool:
    try:
        pid: int = await connection.fetchval(queries(_PACKAGE, "session.sql", store)["backend"])
        return pid == connection.get_server_pid() or await _hears(connection, store, dsn)
    except _MIXED_UP:
        return False


async def _hears(connection: postgres.Connection, store: str, dsn: str) -> bool:
    """Ask for a notification and send it from elsewhere; sent from here, it would come back with the answer."""
    heard = asyncio.Event()
    channel = f"gatelog_{store}_{secrets.token_hex(8)}"

    def ring(*_: object) -> None:
        heard.set()

    await connection.add_listener(channel, ring)
    other = await postgres.connect_to_look(dsn, store, "gatelog relay, self-test")
    try:
        await other.execute(f'NOTIFY "{channel}"')
        await services.wait_any(SELF_TEST_TIMEOUT_S, heard)
    finally:
        other.terminate()
    await connection.remove_listener(channel, ring)
    return heard.is_set()
