"""Subscriptions: a named consumer group over a store's topics, with handlers by event type.

At least once: the group's offsets are committed after the handlers of a batch have returned, so that after a
crash a handler may see events again. Order is kept within a partition, and so within a stream.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, Message, TopicPartition

from gatelog.core import kafka, logs, postgres
from gatelog.core.domain import topic_of, topic_pattern
from gatelog.core.errors import InvalidInputError, UndecodableRecordError
from gatelog.core.settings import Settings
from gatelog.schemas.causation import handling
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import ForeignRecordError, Record, RecordedEvent, parse_record, source_of
from gatelog.schemas.event import Event
from gatelog.schemas.parts import as_read
from gatelog.schemas.registries import registry_of

POLL_S: Final = 0.25
BATCH_MAX: Final = 1_000
TOPIC_REFRESH_MS: Final = 1_000

Handler = Callable[[RecordedEvent], Awaitable[None]]
HandlerT = TypeVar("HandlerT", bound=Callable[[RecordedEvent], Any])

_log = logs.logger("subscription")


class Subscription:
    """A consumer group over a store's topics. Its members share the partitions."""

    def __init__(self, name: str, *, categories: Iterable[str] | None = None) -> None:
        """Subscribe to some categories, or to all of them, from the beginning of the log.

        Raises:
            InvalidInputError: the name is empty or holds control characters.
        """
        if not name or not name.isprintable():
            raise InvalidInputError(f"Subscription name {name!r} is empty or holds control characters.")
        self.name = name
        self._categories = None if categories is None else tuple(categories)
        self._handlers: dict[str, Handler] = {}

    def on(self, *types: type[Event] | str) -> Callable[[HandlerT], HandlerT]:
        """Register an async handler for event types; events of other types pass by undecoded."""

        def register(handler: HandlerT) -> HandlerT:
            if not inspect.iscoroutinefunction(handler):
                raise InvalidInputError(
                    f"Handler {getattr(handler, '__name__', handler)!r} must be an async function."
                )
            for each in types:
                self._handlers[each if isinstance(each, str) else each.event_type] = handler
            return handler

        return register

    def group_of(self, store: str) -> str:
        """Return the name of its consumer group in Kafka."""
        return f"gatelog.{store}.sub.{self.name}"

    async def run(self, stop: asyncio.Event, settings: Settings | None = None) -> None:
        """Handle events until ``stop`` is set; then finish the batch, commit and leave the group.

        Raises:
            Exception: whatever a handler raises; what was not committed comes again.
        """
        async for batch in self.batches(stop, settings):
            for event in batch:
                if (handler := self._handlers.get(event.type)) is not None:
                    with handling(event):
                        await handler(event)

    async def batches(
        self, stop: asyncio.Event, settings: Settings | None = None
    ) -> AsyncIterator[list[RecordedEvent]]:
        """Yield what arrived, batch by batch; an empty one when nothing did. A batch is committed after its turn.

        Raises:
            KafkaUnavailableError: Kafka does not answer.
            PostgresUnavailableError: the registry does not answer.
        """
        settings = settings or Settings.load()
        async with postgres.pool(settings.dsn, settings.store, f"gatelog subscription {self.name}", 1) as pool:
            codec = Codec(registry_of(settings, pool), register=False)
            await codec.start()
            consumer = self._consumer(settings)
            try:
                while not stop.is_set():
                    messages = await asyncio.to_thread(
                        kafka.poll, consumer, settings.kafka_properties, POLL_S, BATCH_MAX
                    )
                    events = _parse(messages, source_of(settings.store))
                    await codec.warm({record.schema_id for record in events})
                    yield as_read([record.with_codec(codec) for record in events], codec)
                    await asyncio.to_thread(_commit, consumer, messages, settings.kafka_properties)
            finally:
                await asyncio.to_thread(consumer.close)

    def _consumer(self, settings: Settings) -> Consumer:
        own = kafka.client_properties(
            settings.kafka_properties,
            group_id=self.group_of(settings.store),
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy="cooperative-sticky",
            topic_metadata_refresh_interval_ms=TOPIC_REFRESH_MS,
            fetch_wait_max_ms=50,
        )
        with kafka.legal(settings.kafka_properties):
            consumer = Consumer(own)
        if self._categories is None:
            consumer.subscribe([topic_pattern(settings.store)])
        else:  # as patterns, so that a category without events yet is no error
            consumer.subscribe([f"^{topic_of(settings.store, c)}$".replace(".", r"\.") for c in self._categories])
        return consumer


def _parse(messages: Sequence[Message], source: str) -> list[Record]:
    records = []
    for message in messages:
        try:
            records.append(parse_record(source, message.headers(), message.value()))
        except (ForeignRecordError, UndecodableRecordError) as error:
            _log.warning(
                "record.ignored",
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
                reason=str(error),
            )
    return records


def _commit(consumer: Consumer, messages: Sequence[Message], properties: dict[str, str]) -> None:
    upto: dict[tuple[str, int], int] = {}
    for message in messages:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        upto[topic, partition] = offset + 1
    if upto:
        with kafka.translated(properties):
            consumer.commit(
                offsets=[TopicPartition(topic, p, offset) for (topic, p), offset in upto.items()], asynchronous=False
            )
