"""Whether a connection has a Postgres session of its own. Behind a pooler in transaction mode it has not.

There, a notification reaches nobody, and the lock of the active relay stays behind in a session that serves others.
"""

import asyncio
import secrets
from typing import Final

import asyncpg

from gatelog.core import postgres, services
from gatelog.core.errors import SettingsError
from gatelog.core.sql import queries

SELF_TEST_TIMEOUT_S: Final = 5.0
_PACKAGE: Final = "gatelog.producer"

# What Postgres says when the parts of one request reach different sessions.
_MIXED_UP: Final = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


async def backend_of(connection: postgres.Connection, store: str, dsn: str) -> int:
    """Return the process id of the session behind ``connection``, if it is there for this connection alone.

    Raises:
        SettingsError: a pooler gives every transaction another session.
        PostgresUnavailableError: no second connection could be opened.
    """
    try:
        pid: int = await connection.fetchval(queries(_PACKAGE, "session.sql", store)["backend"])
        is_own = pid == connection.get_server_pid() or await _hears(connection, store, dsn)
    except _MIXED_UP:
        is_own = False
    if not is_own:
        raise SettingsError(
            f"Postgres at {postgres.where(dsn)} is behind a pooler in transaction mode: LISTEN does not work there, "
            "and the lock of the active relay would be left in a session that others use. Give the relay a DSN that "
            "goes to Postgres directly, or to a pool in session mode."
        )
    return pid


async def _hears(connection: postgres.Connection, store: str, dsn: str) -> bool:
    """Ask for a notification and send it from elsewhere; sent from here, it would come back with the answer."""
    heard = asyncio.Event()
    channel = f"gatelog_{store}_{secrets.token_hex(8)}"

    def ring(*_: object) -> None:
        heard.set()

    await connection.add_listener(channel, ring)
    other = await postgres.connect(dsn, store, "gatelog relay, self-test")
    try:
        await other.execute(f'NOTIFY "{channel}"')
        await services.wait_any(SELF_TEST_TIMEOUT_S, heard)
    finally:
        other.terminate()
    await connection.remove_listener(channel, ring)
    return heard.is_set()
