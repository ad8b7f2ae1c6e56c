"""Kafka to Kafka, exactly once: what a function makes of events goes into the transaction that commits offsets."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar
from uuid import uuid4

from confluent_kafka import KafkaError, KafkaException, Producer

from gatelog.core import kafka, logs, postgres
from gatelog.core.consumer_errors import ProjectionFailedError
from gatelog.core.errors import (
    HistoryGoneError,
    InvalidInputError,
    KafkaUnavailableError,
    PostgresUnavailableError,
)
from gatelog.core.identity import Identified, identified
from gatelog.core.services import at_work, wait_any
from gatelog.core.settings import Settings
from gatelog.core.telling import told
from gatelog.reader.names import category_names, type_names
from gatelog.reader.subscriptions.applying import is_cancelled
from gatelog.reader.subscriptions.kept_marks import KEEP_S, KeptMarks
from gatelog.reader.subscriptions.marks import UNKNOWN_OFFSET, Mark, Marks, kafka_marks
from gatelog.reader.subscriptions.membership import Membership
from gatelog.reader.subscriptions.places import Batch, Joining, Place
from gatelog.reader.subscriptions.refinding import located, missing_before
from gatelog.reader.subscriptions.topics import Topics
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.event import Event
from gatelog.schemas.parts import as_read
from gatelog.schemas.registries import registry_of

BATCH_EVENTS_MAX: Final = 2_000  # in one Kafka transaction
POLL_S: Final = 0.25
RETRY_INTERVAL_S: Final = 0.5
TRANSACTION_TIMEOUT_MS: Final = 10_000  # after which what a dead member left open is aborted
CALL_TIMEOUT_S: Final = 15.0
HANG_S: Final = 5.0  # after that

_log = logs.logger("transform")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to produce. Its topic exists, and is not one of the store's."""

    topic: str
    value: bytes | None
    key: str | bytes | None = None
    headers: Sequence[tuple[str, str | bytes | None]] = ()


Function: TypeAlias = Callable[[RecordedEvent[Any]], Awaitable[Iterable[Outgoing]]]
FunctionT = TypeVar("FunctionT", bound=Function)


class Transform:
    """A consumer group that makes records of events. Each event's records are in Kafka once (read_committed).

    It begins with the first record of each topic, in the order of each partition. A member that lost its partitions
    is refused by Kafka, which knows the generation of its group.
    """

    def __init__(
        self,
        name: str,
        *,
        categories: Iterable[str] | None = None,
        types: Iterable[type[Event] | str] | None = None,
    ) -> None:
        """Read some categories, or all, and of them some types, or all.

        Raises:
            InvalidInputError: the name is empty or holds control characters.
        """
        if not name or not name.isprintable():
            raise InvalidInputError(f"Transform name {name!r} is empty or holds control characters.")
        self.name = name
        self.categories = None if categories is None else category_names(categories)
        self.types = None if types is None else frozenset(type_names(types))
        self._function: Function | None = None

    def each(self, function: FunctionT) -> FunctionT:
        """Register ``async def transform(event)``, which returns the records to produce. It may be called again.

        Raises:
            InvalidInputError: it is not an async function.
        """
        if not _is_async(function):
            raise InvalidInputError(f"Transform {self.name!r}: its function must be an async function.")
        self._function = function
        return function

    def group_of(self, settings: Identified) -> str:
        """Return the name of its group in Kafka: ``gatelog.<store>.transform.<name>.<short id of the store>``."""
        return settings.named("transform", self.name)

    async def run(self, stop: asyncio.Event, settings: Settings | None = None) -> None:
        """Work until ``stop`` is set; then finish the transaction and leave. What passes is waited out.

        Raises:
            ProjectionFailedError: the function raised an error, which is its cause, or returned what is no record or
                a larger one than the client sends; its transaction was aborted.
            InvalidInputError: it returned a record for a topic of the store.
            HistoryGoneError: the next record is gone from Kafka; nothing was skipped.
            ForeignStoreError: a topic is another store's of the same name.
        """
        settings = settings or Settings.load()
        if self._function is None:
            raise InvalidInputError(f"Transform {self.name!r} has no function: register one with `.each`.")
        name = f"gatelog transform {self.name}"
        gone: tuple[str, int, int | None] | None = None  # where records were gone the last time
        while not stop.is_set():
            try:
                async with postgres.pool(settings.dsn, settings.store, name, 1) as pool:
                    codec = Codec(registry_of(settings, pool), register=False)
                    store = await identified(settings, pool)
                    joining = Joining(self.group_of(store), self.categories, self.types, BATCH_EVENTS_MAX * 2)
                    kept = KeptMarks(store, pool, joining.group)
                    await _Session(store, self.name, self._function, codec, kept).run(joining, stop)
            except (KafkaUnavailableError, PostgresUnavailableError, KafkaException) as error:
                # The transaction was aborted, or its outcome is not known: the committed offsets tell.
                _log.warning("transform.interrupted", transform=self.name, error=told(error))
                await wait_any(RETRY_INTERVAL_S, stop)
            except HistoryGoneError as error:
                before, gone = gone, error.where
                if gone == before:
                    raise  # it was looked for, and is not anywhere else
                _log.info("transform.again", transform=self.name, reason=told(error))


class _Session:
    """One membership and one producer. After any error of Kafka both are made anew."""

    def __init__(self, settings: Identified, name: str, function: Function, codec: Codec, kept: KeptMarks) -> None:
        self._settings = settings
        self._properties = settings.kafka_properties
        self._name = name
        self._function = function
        self._codec = codec
        self._kept = kept
        self._kept_at = time.monotonic()
        self._marks: dict[Place, Mark] = {}  # of what was committed
        self._busy = asyncio.Lock()
        self._types: Collection[str] | None = None
        self._turns: dict[Place, int] = {}  # tells what came before a partition went and came back
        own = kafka.client_properties(
            self._properties,
            transactional_id=settings.named("transform", name, uuid4()),
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            partitioner="murmur2_random",
        )
        with kafka.legal(self._properties):
            self._producer = Producer(own)

    async def run(self, joining: Joining, stop: asyncio.Event) -> None:
        self._types = joining.types
        self._topics = Topics(self._settings, joining.categories)
        with kafka.translated(self._properties):
            await self._call(self._producer.init_transactions)
            async with Membership.joined(self._settings, joining, self._codec, self) as member:
                while not stop.is_set():
                    arrived = await self._arrived(member)
                    async with self._busy:
                        ours = [batch for batch, turn in arrived if self._turns.get(batch.place) == turn]
                        if ours:
                            await self._transact(member, ours)
                        if time.monotonic() - self._kept_at > KEEP_S:
                            await self._keep()
                    for batch, _ in arrived:
                        member.release(len(batch.events), batch.size_bytes)

    async def _arrived(self, member: Membership) -> list[tuple[Batch, int | None]]:
        found: list[tuple[Batch, int | None]] = []
        events, wait_s = 0, POLL_S
        while events < BATCH_EVENTS_MAX and (batches := await member.next(wait_s)):
            wait_s = 0
            events += sum(len(batch.events) for batch in batches)
            found += [(batch, self._turns.get(batch.place)) for batch in batches]
        return found

    async def _transact(self, member: Membership, batches: Sequence[Batch]) -> None:
        producer = self._producer
        producer.begin_transaction()
        try:
            for batch in batches:
                for event in as_read(list[RecordedEvent](batch.events), self._types):
                    for record in await self._made(event):
                        await self._produce(event, record)
            # A later batch of a place is further on.
            marks: dict[Place, Mark] = {}
            for batch in batches:
                at = marks.get(batch.place) or self._marks[batch.place]
                if at.position is not None and batch.needs > at.position:
                    raise missing_before(batch.place, at.offset, at.position, batch.needs)
                position = None if at.position is None else max(at.position, batch.reached)
                marks[batch.place] = Mark(batch.next_offset, position, batch.epoch, at.topic)
            metadata = await member.group_metadata()
            await self._call(producer.send_offsets_to_transaction, kafka_marks(marks), metadata)
            await self._call(producer.commit_transaction)
        except KafkaException as error:
            if not error.args[0].fatal():
                await self._call(producer.abort_transaction)
            raise
        except BaseException:
            await self._call(producer.abort_transaction)
            raise
        self._marks |= marks

    async def _call(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the producer, and wait no longer than it was told to: a commit was seen to hang after a broker died.

        Its transaction is aborted by Kafka then, or it was committed: the session that comes next waits until that is
        decided, before it asks for the committed offsets.

        Raises:
            KafkaUnavailableError: it hangs.
            KafkaException: it failed.
        """
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S + HANG_S):
                await asyncio.to_thread(call, *arguments, CALL_TIMEOUT_S)
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"Transform {self._name!r}: the Kafka client does not come back from a call about its transaction."
            ) from error

    async def _made(self, event: RecordedEvent) -> Iterable[Outgoing]:
        try:
            with at_work:
                return list(await self._function(event))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            raise self._failed(event, error) from error

    async def _produce(self, event: RecordedEvent, record: Outgoing) -> None:
        try:
            if record.topic.startswith(f"{self._settings.store}."):
                raise InvalidInputError(
                    f"Transform {self._name!r} would write into {record.topic!r}, a topic of the store: only the "
                    "relay does. Append an event instead."
                )
            await self._send(record)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise
            raise self._failed(event, error) from error
        except (AttributeError, TypeError, ValueError) as error:  # it is no record
            raise self._failed(event, error) from error

    async def _send(self, record: Outgoing) -> None:
        arguments: dict[str, Any] = {"key": record.key, "headers": list(record.headers)}
        while True:
            try:
                self._producer.produce(record.topic, record.value, **arguments)
            except BufferError:  # its queue is full
                await asyncio.to_thread(self._producer.poll, 0.1)
            else:
                return

    def _failed(self, event: RecordedEvent, error: BaseException) -> ProjectionFailedError:
        return ProjectionFailedError(self._name, event.stream, event.version, event.position, event.type, error)

    # --- partitions come and go (see ``Owner``) -----------------------------------------------------

    def bind(self, member: Membership) -> None:
        self._member = member

    async def assigned(self, places: Sequence[Place]) -> Marks:
        """Go on where the last transaction that is through has left off; one that is open is waited for."""
        known = await self._kept.read(places) | await self._member.committed(places)
        begun = {place: known.get(place, Mark(0, 0)) for place in places}
        marks = await located(self._settings, self._topics, begun)
        for place, mark in marks.items():
            if mark.offset == UNKNOWN_OFFSET:
                raise HistoryGoneError(
                    *place, begun[place].offset, "and what comes after it cannot be told from Kafka"
                )
        self._marks |= marks
        self._turn(places)
        return marks

    async def revoked(self, places: Sequence[Place]) -> Marks:
        """Finish the transaction in hand. It has committed the offsets."""
        async with self._busy:
            self._turn(places)
            await self._keep()
        return {}

    async def _keep(self) -> None:
        with suppress(PostgresUnavailableError):  # next time
            await self._kept.keep(self._marks)
            self._kept_at = time.monotonic()

    async def lost(self, places: Sequence[Place]) -> None:
        self._turn(places)

    def _turn(self, places: Sequence[Place]) -> None:
        for place in places:
            self._turns[place] = self._turns.get(place, 0) + 1


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function)
