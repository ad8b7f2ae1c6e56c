"""The heartbeat of a member: a row in Postgres that says every few seconds that it is alive, and how it is doing."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import uuid4

import orjson

from gatelog.core import logs, postgres
from gatelog.core.errors import GatelogError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.core.telling import told
from gatelog.reader.subscriptions.membership import Membership
from gatelog.reader.subscriptions.starts import PACKAGE

BEAT_S: Final = 2.0

_log = logs.logger("subscription")


@asynccontextmanager
async def beating(
    settings: Settings,
    pool: postgres.Pool,
    subscription: str,
    member: Membership,
    facts: Callable[[], dict[str, object]],
    progressed_at: Callable[[], float],
) -> AsyncIterator[None]:
    """Beat until the block ends; then the row goes. Postgres away is logged, and no reason to stop."""
    sql, identity = queries(PACKAGE, "subscriptions.sql", settings.store), uuid4()

    async def beat() -> None:
        about = orjson.dumps({"protocol": member.protocol, "passed_over": member.passed_over, **facts()}).decode()
        progressed_s_ago = time.monotonic() - progressed_at() if member.in_hand else 0.0
        with postgres.translated(settings.store, settings.dsn):
            await pool.execute(
                sql["beat"],
                subscription,
                identity,
                socket.gethostname(),
                os.getpid(),
                member.polled_s_ago,
                progressed_s_ago,
                about,
            )

    async def go_on() -> None:
        is_well = True
        while True:
            try:
                await beat()
                is_well = True
            except GatelogError as error:
                if is_well:
                    _log.warning("subscription.no_heartbeat", subscription=subscription, error=told(error))
                is_well = False
            await asyncio.sleep(BEAT_S)

    with suppress(GatelogError), postgres.translated(settings.store, settings.dsn):
        await pool.execute(sql["bury"])
    task = asyncio.create_task(go_on(), name=f"{subscription} heartbeat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with suppress(GatelogError), postgres.translated(settings.store, settings.dsn):
            await pool.execute(sql["leave"], subscription, identity)
