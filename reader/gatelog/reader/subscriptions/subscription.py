"""What a program writes: a named subscription, its handlers, and ways to run it."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from gatelog.core import logs, migrations, postgres, services
from gatelog.core.errors import InvalidInputError, KafkaUnavailableError, PostgresUnavailableError
from gatelog.core.identity import Identified, identified
from gatelog.core.settings import Settings
from gatelog.core.telling import told
from gatelog.reader.names import category_names, type_names
from gatelog.reader.subscriptions.beating import beating
from gatelog.reader.subscriptions.engine import Engine
from gatelog.reader.subscriptions.failures import Failures
from gatelog.reader.subscriptions.group_reading import GroupReading, Handling
from gatelog.reader.subscriptions.history import History
from gatelog.reader.subscriptions.iterating import Iteration
from gatelog.reader.subscriptions.kept_marks import KeptMarks
from gatelog.reader.subscriptions.parked import check_length
from gatelog.reader.subscriptions.parker import Parker
from gatelog.reader.subscriptions.places import Joining
from gatelog.reader.subscriptions.standing import Standing, standings
from gatelog.reader.subscriptions.starts import PACKAGE, Origin, Start, Starts
from gatelog.reader.subscriptions.work import Handler, Plan
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.event import Event
from gatelog.schemas.parts import as_read
from gatelog.schemas.registries import registry_of

RETRY_INTERVAL_S: Final = 1.0

EventT = TypeVar("EventT", bound=Event)
OtherT = TypeVar("OtherT", bound=Event)
AnyHandlerT = TypeVar("AnyHandlerT", bound=Callable[[RecordedEvent[Any]], Awaitable[object]])
TypedHandler: TypeAlias = Callable[[RecordedEvent[EventT]], Awaitable[object]]

_log = logs.logger("subscription")


class Subscription:
    """A consumer group over a store's topics, at least once. Its members share the partitions."""

    def __init__(
        self,
        name: str,
        *,
        categories: Iterable[str] | None = None,
        start: Start | None = None,
        failures: Failures | None = None,
        order: Literal["stream", "partition"] = "stream",
        concurrency: int = 16,
        handler_timeout_s: float | None = None,
        revoke_timeout_s: float = 10.0,
        stop_timeout_s: float = 15.0,
        parked_events_max: int = 10_000,
    ) -> None:
        """Subscribe to some categories, or to all of them, from ``start`` (default: the beginning of the log).

        ``concurrency`` handlers run at once in a process, one after the other within a stream (or a partition, see
        ``order``). A handler that takes over ``handler_timeout_s`` has failed. When a partition goes to another
        member, what runs has ``revoke_timeout_s`` to finish, at the end ``stop_timeout_s``; then it is cancelled.

        Raises:
            InvalidInputError: the name is empty, too long, or holds control characters; a number is out of range.
        """
        if not name or not name.isprintable():
            raise InvalidInputError(f"Subscription name {name!r} is empty or holds control characters.")
        check_length(name)
        if concurrency < 1 or parked_events_max < 1:
            raise InvalidInputError("concurrency and parked_events_max must be at least 1.")
        if order not in {"stream", "partition"}:
            raise InvalidInputError(f"order is {order!r}; it is 'stream' or 'partition'. 'total' is for projections.")
        if min(revoke_timeout_s, stop_timeout_s) < 0 or (handler_timeout_s is not None and handler_timeout_s <= 0):
            raise InvalidInputError("revoke_timeout_s, stop_timeout_s and handler_timeout_s must be positive.")
        self.name = name
        self.concurrency = concurrency
        self._categories = None if categories is None else category_names(categories)
        self._start = start or Start.beginning()
        self._failures = failures or Failures()
        self._order: Literal["stream", "partition"] = order
        self._handler_timeout_s = handler_timeout_s
        self._revoke_timeout_s = revoke_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._parked_events_max = parked_events_max
        self._handlers: dict[str, Handler] = {}
        self._fallback: Handler | None = None

    @overload
    def on(self, *types: str) -> Callable[[AnyHandlerT], AnyHandlerT]: ...

    @overload
    def on(self, one: type[EventT], /) -> Callable[[TypedHandler[EventT]], TypedHandler[EventT]]: ...

    @overload
    def on(
        self, one: type[EventT], two: type[OtherT], /
    ) -> Callable[[TypedHandler[EventT | OtherT]], TypedHandler[EventT | OtherT]]: ...

    @overload
    def on(
        self, one: type[Event], two: type[Event], three: type[Event], /, *more: type[Event]
    ) -> Callable[[AnyHandlerT], AnyHandlerT]: ...

    def on(self, *types: type[Event] | str) -> Callable[[AnyHandlerT], AnyHandlerT]:
        """Register an async handler for event types; without types, for all that no other handler takes.

        Events of other types pass by undecoded. A handler returns nothing, or returns or raises ``Retry``, ``Park``,
        ``Skip`` or ``Stop``; about other exceptions, ``failures`` decides. Annotated with
        ``RecordedEvent[OrderPlaced]``, it is checked against the model, and so is what it does with ``event.data``.

        Raises:
            InvalidInputError: it is not an async function, or a type has a handler already.
        """

        def register(handler: AnyHandlerT) -> AnyHandlerT:
            is_async: bool = inspect.iscoroutinefunction(handler)  # on a line of its own: it would narrow the type
            if not is_async:
                raise InvalidInputError(
                    f"Handler {getattr(handler, '__name__', handler)!r} must be an async function."
                )
            self._register(types, handler)
            return handler

        return register

    def _register(self, types: Collection[type[Event] | str], handler: Handler) -> None:
        if not types:
            if self._fallback is not None:
                raise InvalidInputError(f"Subscription {self.name!r} has a handler for all other types already.")
            self._fallback = handler
        for name in type_names(types):
            if name in self._handlers:
                raise InvalidInputError(f"Subscription {self.name!r} has a handler for {name} already.")
            self._handlers[name] = handler

    def group_of(self, settings: Identified) -> str:
        """Return the name of its consumer group in Kafka: ``gatelog.<store>.sub.<name>.<short id of the store>``."""
        return settings.named("sub", self.name)

    async def standing(self, settings: Settings | None = None) -> Standing | None:
        """Return where it stands: lag in positions and seconds, members, parked events. None: it never ran.

        Raises:
            PostgresUnavailableError: no answer.
        """
        settings = settings or Settings.load()
        connection = await postgres.connect(settings.dsn, settings.store, f"gatelog subscription {self.name}")
        try:
            found = await standings(await identified(settings, connection), connection)
        finally:
            await connection.close()
        return next((each for each in found if each.name == self.name), None)

    async def run(
        self, stop: asyncio.Event, settings: Settings | None = None, *, concurrency: int | None = None
    ) -> None:
        """Handle events until ``stop`` is set; then finish what runs, commit and leave the group.

        What passes (Postgres or Kafka away at the start) is waited out.

        Raises:
            InvalidInputError: there is no handler.
            HistoryGoneError: the next record is gone from Kafka.
            ForeignStoreError: a topic is another store's of the same name.
            ParkedFullError: as many events are parked as may be.
            Exception: of a handler, when ``failures`` says ``"stop"``; what was not committed comes again.
        """
        if not self._handlers and self._fallback is None:
            raise InvalidInputError(f"Subscription {self.name!r} has no handler.")
        settings = settings or Settings.load()
        while not stop.is_set():
            try:
                await self._run_once(stop, settings, concurrency or self.concurrency)
                return
            except (KafkaUnavailableError, PostgresUnavailableError) as error:
                _log.warning("subscription.interrupted", subscription=self.name, error=told(error))
                await services.wait_any(RETRY_INTERVAL_S, stop)

    async def _run_once(self, stop: asyncio.Event, settings: Settings, concurrency: int) -> None:
        async with self._opened(settings) as (store, pool, codec):
            plan = Plan(
                self.name,
                store.source,
                self._handlers,
                self._fallback,
                self._failures,
                self._order,
                concurrency,
                self._handler_timeout_s,
                self._revoke_timeout_s,
                self._stop_timeout_s,
            )
            parker = Parker(store, pool, self.name, self._parked_events_max)
            engine = Engine(plan, codec, parker)
            types = None if self._fallback is not None else tuple(self._handlers)
            try:
                async with (
                    self._joined(store, pool, codec, types, engine) as reading,
                    beating(
                        settings, pool, self.name, reading.member, engine.facts, lambda: engine.counts.progressed_at
                    ),
                ):
                    await engine.run(reading, stop)
            finally:
                await parker.close()

    async def events(
        self,
        stop: asyncio.Event | None = None,
        settings: Settings | None = None,
        *,
        types: Iterable[type[Event] | str] | None = None,
    ) -> AsyncGenerator[RecordedEvent, None]:
        """Yield events until ``stop`` is set, in order within a partition. One is handled when the next is asked for.

        The one at hand when the loop is left (``break``, an exception, a stop) comes again at the next start; use
        ``contextlib.aclosing`` to leave the group at that moment. ``types``: models or names; others pass by.

        Raises:
            HistoryGoneError: the next record is gone from Kafka.
            ForeignStoreError: a topic is another store's of the same name.
            KafkaUnavailableError, PostgresUnavailableError: no answer at the start.
        """
        iteration = Iteration()
        names = None if types is None else frozenset(type_names(types))
        async with aclosing(self._iterate(iteration, stop, settings, names)) as found:
            async for batch, codec in found:
                for place, stored in enumerate(batch):
                    iteration.index = place
                    if stored.schema_id in codec.reshapes:
                        for event in as_read([stored], names):
                            yield event
                    elif names is None or stored.type in names:
                        yield stored
                    if iteration.is_current_gone or (stop is not None and stop.is_set()):
                        iteration.index = place + 1
                        break
                else:
                    iteration.index = len(batch)

    async def batches(
        self,
        stop: asyncio.Event | None = None,
        settings: Settings | None = None,
        *,
        types: Iterable[type[Event] | str] | None = None,
    ) -> AsyncGenerator[Sequence[RecordedEvent], None]:
        """Yield events of one partition at a time, at most 1,000. A batch is handled when the next is asked for.

        Raises: as ``events``.
        """
        iteration = Iteration()
        names = None if types is None else frozenset(type_names(types))
        async with aclosing(self._iterate(iteration, stop, settings, names)) as found:
            async for batch, _codec in found:
                if events := as_read(batch, names):
                    yield events
                iteration.index = len(batch)

    async def _iterate(
        self,
        iteration: Iteration,
        stop: asyncio.Event | None,
        settings: Settings | None,
        names: Collection[str] | None,
    ) -> AsyncGenerator[tuple[list[RecordedEvent], Codec], None]:
        settings = settings or Settings.load()
        async with (
            self._opened(settings) as (store, pool, codec),
            self._joined(store, pool, codec, names, iteration) as reading,
            beating(settings, pool, self.name, reading.member, iteration.facts, lambda: iteration.waited_at),
            aclosing(iteration.batches(reading, stop or asyncio.Event())) as found,
        ):
            async for batch in found:
                yield list[RecordedEvent](batch.events), codec

    def _joined(
        self,
        settings: Identified,
        pool: postgres.Pool,
        codec: Codec,
        types: Collection[str] | None,
        handling: Handling,
    ) -> AbstractAsyncContextManager[GroupReading]:
        starts, group = Starts(settings, pool), settings.named("sub", "{}")
        joining = Joining(
            self.group_of(settings),
            self._categories,
            types,
            settings.subscription_events_max,
            settings.subscription_bytes_max,
            self._revoke_timeout_s,
        )
        history = History(settings, pool, codec)

        async def origin() -> Origin:
            return await starts.origin(self.name, self._start, self._categories, group)

        kept = KeptMarks(settings, pool, joining.group)
        return GroupReading.joined(settings, joining, codec, history, origin, handling, kept)

    @asynccontextmanager
    async def _opened(self, settings: Settings) -> AsyncIterator[tuple[Identified, postgres.Pool, Codec]]:
        async with postgres.pool(settings.dsn, settings.store, f"gatelog subscription {self.name}", 2) as pool:
            with postgres.translated(settings.store, settings.dsn):
                async with pool.acquire() as connection:
                    await migrations.check(connection, settings.store, PACKAGE)
            codec = Codec(registry_of(settings, pool), register=False)
            await codec.start()
            yield await identified(settings, pool), pool, codec
