"""Projections: read models in Postgres, filled exactly once, rebuilt beside themselves, and waited for."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Literal, TypeVar

from gatelog.core import logs, postgres
from gatelog.core.errors import (
    HistoryGoneError,
    InvalidInputError,
    KafkaUnavailableError,
    PostgresUnavailableError,
)
from gatelog.core.identity import identified
from gatelog.core.services import wait_any
from gatelog.core.settings import Settings
from gatelog.core.telling import told
from gatelog.reader.names import category_names, type_names
from gatelog.reader.subscriptions import owning
from gatelog.reader.subscriptions.applying import Function
from gatelog.reader.subscriptions.builds import Build, Builds, SetUp, check_schema
from gatelog.reader.subscriptions.checkpoints import Checkpoint, PartitionLostError
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET
from gatelog.reader.subscriptions.projection_standing import ProjectionStanding, projection_standings
from gatelog.reader.subscriptions.sessions import OrderedSession, PartitionSession, Plan, opened
from gatelog.reader.subscriptions.watching import Append, Progress, Watch
from gatelog.schemas.event import Event

RETRY_INTERVAL_S: Final = 1.0
SWITCH_INTERVAL_S: Final = 1.0
NAME_CHARACTERS_MAX: Final = 100

_log = logs.logger("projection")
FunctionT = TypeVar("FunctionT", bound=Function)
SetUpT = TypeVar("SetUpT", bound=SetUp)


class Projection:
    """A read model in Postgres. The checkpoint commits with its rows: each event is in it once, whatever dies.

    Several members share the partitions (``order="partition"``: in order within each stream), or one works and the
    others stand by (``order="total"``: in order of positions over everything).
    """

    def __init__(
        self,
        name: str,
        *,
        version: int = 1,
        categories: Iterable[str] | None = None,
        types: Iterable[type[Event] | str] | None = None,
        order: Literal["partition", "total"] = "partition",
        schema: str | None = None,
        postgres_dsn: str | None = None,
        start_after: int | None = None,
    ) -> None:
        """Describe a projection; nothing is opened.

        ``version``: raise it when the function changes; the new version is built beside the live one, which it then
        replaces. ``schema``: of the read model's tables, first in the function's search path; needed for rebuilding.
        ``postgres_dsn``: of the read model, where it is not in the store's database. ``start_after``: a position;
        by default the read model begins with the first event.

        Raises:
            InvalidInputError: a value is not legal.
        """
        if not name or not name.isprintable() or len(name) > NAME_CHARACTERS_MAX:
            raise InvalidInputError(
                f"Projection name {name!r}: 1 to {NAME_CHARACTERS_MAX} characters, no control characters."
            )
        if version < 1 or (start_after is not None and start_after < 0):
            raise InvalidInputError(
                f"Projection {name!r}: version and start_after must not be negative, version not 0."
            )
        if order not in {"partition", "total"}:
            raise InvalidInputError(f"Projection {name!r}: order is {order!r}; it is 'partition' or 'total'.")
        if schema is not None:
            check_schema(name, schema)
        self.name = name
        self.version = version
        self.categories = None if categories is None else category_names(categories)
        self.types = None if types is None else frozenset(type_names(types))
        self.order = order
        self.schema = schema
        self._dsn = postgres_dsn
        start = Checkpoint(0, 0) if not start_after else Checkpoint(start_after, UNKNOWN_OFFSET)
        self._start = start
        self._function: Function | None = None
        self._set_up: SetUp | None = None

    def batch(self, function: FunctionT) -> FunctionT:
        """Register ``async def project(connection, events)``. It writes with ``connection``, in its transaction.

        Raises:
            InvalidInputError: it is not an async function, or there is one already.
        """
        if not _is_async(function):
            raise InvalidInputError(f"Projection {self.name!r}: its function must be an async function.")
        if self._function is not None:
            raise InvalidInputError(f"Projection {self.name!r} has a function already: a batch is handled by one.")
        self._function = function
        return function

    def set_up(self, function: SetUpT) -> SetUpT:
        """Register ``async def tables(connection)``, which makes the tables of a build before it is filled.

        Raises:
            InvalidInputError: it is not an async function.
        """
        if not _is_async(function):
            raise InvalidInputError(f"Projection {self.name!r}: its set-up must be an async function.")
        self._set_up = function
        return function

    async def prepare(self, settings: Settings | None = None) -> None:
        """Make the tables for checkpoints, in the read model's database, and the read model's own. Safe to repeat.

        Raises:
            InvalidInputError: the set-up failed, or the schema holds tables already.
            ForeignStoreError: the database has checkpoints of another store of the same name.
            PostgresUnavailableError: no answer.
        """
        settings = settings or Settings.load()
        if self._dsn is not None:
            await owning.record(settings, self._dsn, self.name)
        await self._builds(settings).prepare(self.version, self._set_up)

    async def run(self, stop: asyncio.Event, settings: Settings | None = None) -> None:
        """Fill the read model until ``stop`` is set; then finish the batch and leave. What passes is waited out.

        Where an older version is live, this one is built beside it, and takes its place when it has come as far.

        Raises:
            ProjectionNotPreparedError: ``prepare`` was not called.
            ProjectionReplacedError: a newer version is live.
            ProjectionFailedError: the function raised an error, which is its cause.
            HistoryGoneError: events are neither in Kafka nor in the index.
            LogMismatchError: total order, and positions are missing.
            ForeignStoreError: a topic, or the read model's database, is another store's of the same name.
        """
        settings = settings or Settings.load()
        builds = self._builds(settings)

        async def next_build() -> Build | None:
            return await builds.to_work_on(self.version, self._set_up)

        await self._run(stop, settings, builds, next_build)

    async def rebuild(self, stop: asyncio.Event, settings: Settings | None = None) -> bool:
        """Fill the read model anew, from the beginning, beside the live one, and switch when it has come as far.

        Return whether it was switched; when ``stop`` comes first, the next call goes on. Members that ``run`` the
        same version go over to the new build.

        Raises:
            InvalidInputError: the read model has no ``schema`` in which a second one could have its tables.
            Others as for ``run``.
        """
        if self.schema is None:
            raise InvalidInputError(
                f"Projection {self.name!r} has no schema: give it one, so that two builds can stand side by side."
            )
        settings = settings or Settings.load()
        builds = self._builds(settings)
        number: int | None = None

        async def next_build() -> Build | None:
            nonlocal number
            if number is None:
                build = await builds.to_rebuild(self.version, self._set_up)
                number = build.number
                return build
            return next((b for b in await builds.all() if b.number == number and b.state == "building"), None)

        await self._run(stop, settings, builds, next_build)
        return any(build.number == number and build.state != "building" for build in await builds.all())

    async def _run(
        self,
        stop: asyncio.Event,
        settings: Settings,
        builds: Builds,
        next_build: Callable[[], Awaitable[Build | None]],
    ) -> None:
        gone: tuple[str, int, int | None] | None = None  # where records were gone the last time
        while not stop.is_set():
            try:
                if self._dsn is not None:
                    await owning.check(settings, self._dsn, self.name)
                build = await next_build()
                if build is None:
                    return
                await self._work(stop, settings, builds, build)
            except PartitionLostError as error:
                _log.info("projection.again", projection=self.name, reason=told(error))
                await wait_any(RETRY_INTERVAL_S / 10, stop)
            except (PostgresUnavailableError, KafkaUnavailableError) as error:
                _log.warning("projection.interrupted", projection=self.name, error=told(error))
                await wait_any(RETRY_INTERVAL_S, stop)
            except HistoryGoneError as error:
                _log.info("projection.again", projection=self.name, reason=told(error))
                before, gone = gone, error.where
                if gone == before:
                    raise  # the index was asked, and does not have it either

    async def _work(self, stop: asyncio.Event, settings: Settings, builds: Builds, build: Build) -> None:
        """Work on a build until ``stop`` is set, or it has become the live one."""
        kind = OrderedSession if self.order == "total" else PartitionSession
        ended = asyncio.Event()
        helpers = [asyncio.create_task(_pass_on(stop, ended))]
        if build.state == "building":
            helpers.append(asyncio.create_task(self._switch(builds, build, ended)))
        try:
            dsn = self._dsn or settings.dsn
            async with opened(settings, self._plan(), build, builds, dsn, kind) as session:
                await session.run(ended)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _switch(self, builds: Builds, build: Build, ended: asyncio.Event) -> None:
        while not ended.is_set():
            await wait_any(SWITCH_INTERVAL_S, ended)
            try:
                if await builds.switch(build.number):
                    ended.set()
            except PostgresUnavailableError as error:
                _log.warning("projection.switch_failed", projection=self.name, error=told(error))

    async def drop(self, build: int, settings: Settings | None = None) -> None:
        """Drop a retired build, or one that is being built, with its schema.

        Raises:
            InvalidInputError: there is no such build, or it is live.
            ForeignStoreError: the database has checkpoints of another store of the same name.
        """
        settings = settings or Settings.load()
        if self._dsn is not None:
            await owning.check(settings, self._dsn, self.name)
        await self._builds(settings).drop(build)

    @asynccontextmanager
    async def watched(self, settings: Settings | None = None) -> AsyncIterator[Watch]:
        """Yield what shows progress and waits for appends, with connections that are kept open.

        Raises:
            ForeignStoreError: the database has checkpoints of another store of the same name.
            PostgresUnavailableError: no answer.
        """
        settings = settings or Settings.load()
        if self._dsn is not None:
            await owning.check(settings, self._dsn, self.name)
        async with Watch.connect(settings, self._dsn or settings.dsn, self.name, self.categories) as watch:
            yield watch

    async def seen(self, append: Append | int, *, timeout: float = 30.0, settings: Settings | None = None) -> None:
        """Wait until the live read model holds an append, or the event at a position. See ``Watch.seen``."""
        async with self.watched(settings) as watch:
            await watch.seen(append, timeout=timeout)

    async def standing(self, settings: Settings | None = None) -> list[ProjectionStanding]:
        """Return where each build stands: lag in positions and seconds, whether it runs; the oldest first.

        Raises:
            PostgresUnavailableError: no answer.
        """
        settings = settings or Settings.load()
        connection = await postgres.connect(settings.dsn, settings.store, f"gatelog projection {self.name}")
        try:
            found = await projection_standings(await identified(settings, connection), connection, self._dsn)
        finally:
            await connection.close()
        return [each for each in found if each.projection == self.name]

    async def progress(self, settings: Settings | None = None) -> list[Progress]:
        """Return how far each build has come, the oldest first. See ``Watch.progress``."""
        async with self.watched(settings) as watch:
            return await watch.progress()

    def _builds(self, settings: Settings) -> Builds:
        return Builds(self._dsn or settings.dsn, settings.store, self.name, self.schema)

    def _plan(self) -> Plan:
        if self._function is None:
            raise InvalidInputError(f"Projection {self.name!r} has no function: register one with `.batch`.")
        return Plan(self.name, self.categories, self.types, self._function, self._start)


async def _pass_on(stop: asyncio.Event, ended: asyncio.Event) -> None:
    await stop.wait()
    ended.set()


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function)
