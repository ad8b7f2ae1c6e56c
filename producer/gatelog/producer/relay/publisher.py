"""One tick, one Kafka transaction, fenced by ``transactional.id``. Blocks: call it off the event loop.

The order of calls and the three classes of errors (retriable, abortable, fatal) follow librdkafka's
documentation of its transactional producer (``rdkafka.h``, "Transactional producer API").
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from typing import Final, NamedTuple, NoReturn
from uuid import UUID

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from gatelog.core import kafka, logs
from gatelog.core.asking import Place
from gatelog.core.domain import topic_of
from gatelog.core.errors import (
    GatelogError,
    KafkaUnavailableError,
    PublishRefusedError,
    RelayFencedError,
    SettingsError,
    TopicError,
)
from gatelog.core.identity import Identified
from gatelog.core.partitioning import partition_of
from gatelog.producer.relay.records import Record, records_of
from gatelog.producer.relay.ticks import Tick
from gatelog.schemas.envelope import previous_header

INIT_TIMEOUT_S: Final = 30.0
COMMIT_TIMEOUT_S: Final = 60.0
TRANSACTION_TIMEOUT_MS: Final = 60_000
_CALL_TIMEOUT_S: Final = 10.0
_QUEUE_MESSAGES_MAX: Final = 100_000
# Kafka answers a commit before it has written the markers. A transaction that the same producer begins earlier is
# refused for now, and librdkafka tries again after 20 ms. So two take turns, and each still leaves this much time.
_PRODUCERS: Final = 2
_MARKERS_S: Final = 0.002

_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})
_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_REFUSED: Final = _TOO_LARGE | frozenset(
    {
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)

_log = logs.logger("relay")


class OutcomeUnknownError(GatelogError):
    """The producer is of no use any more and the transaction's outcome is unknown: a new one asks Kafka."""

    retryable = True


class TickAbortedError(GatelogError):
    """The transaction was aborted for a passing reason: the same tick can be published again."""

    retryable = True


class _Failure(NamedTuple):
    topic: str | None
    key: str | bytes | None
    value: str | bytes | None
    error: KafkaError


@contextmanager
def _plain() -> Iterator[None]:
    """Raise a fatal error of the client as such.

    The client goes on to call delivery callbacks when it is about to raise one, and Python complains about that.
    """
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while isinstance(cause, SystemError):
            cause = cause.__cause__
        if isinstance(cause, KafkaException):
            raise cause from None
        raise


@contextmanager
def _begun(properties: dict[str, str]) -> Iterator[None]:
    """Say what it means that Kafka does not let a producer begin."""
    try:
        with kafka.translated(properties), _plain():
            yield
    except KafkaUnavailableError:
        kafka.check_credentials(properties)
        raise
    except KafkaException as error:
        cause, servers = error.args[0], properties.get("bootstrap.servers")
        if cause.code() in _FENCED:
            raise RelayFencedError(f"Another relay took over: {cause.str()}") from error
        if cause.retriable():
            raise KafkaUnavailableError(f"Kafka at {servers} does not begin a transaction: {cause.str()}") from error
        if cause.code() == KafkaError.INVALID_TRANSACTION_TIMEOUT:
            found = kafka.broker_setting(properties, "transaction.max.timeout.ms")
            raise SettingsError(
                f"Kafka at {servers} has transaction.max.timeout.ms = {found or 'unknown'}, but transactions of the "
                f"relay may take {TRANSACTION_TIMEOUT_MS}. Set it to that or more on every broker."
            ) from error
        raise SettingsError(
            f"Kafka at {servers} does not let the relay begin a transaction ({cause.name()}: {cause.str()}). Nothing "
            "was published. Where access is controlled, the relay needs WRITE and DESCRIBE on its transactional ids."
        ) from error


@dataclass(slots=True)
class _Client:
    producer: Producer
    committed_at: float = 0.0


class Publisher:
    """The transactional producers of one relay, which take turns; never is more than one transaction open."""

    def __init__(self, settings: Identified) -> None:
        """Fence every earlier producer of the store, and settle what it left open.

        Raises:
            KafkaUnavailableError: no answer within 30 s.
            RelayFencedError: another relay took over at the same moment.
            SettingsError: a librdkafka property is wrong, Kafka refused the credentials, or transactions like ours.
        """
        self._settings = settings
        self._properties = properties = settings.kafka_properties
        self.partitions: dict[str, int] = {}  # of each topic that is published to, as whoever makes topics knows it
        self.last: dict[Place, int] = {}  # position of the last record of ours in each partition, where it is known
        self._sent: dict[Place, int] = {}  # the same, of the tick that was sent
        self._failed: list[_Failure] = []
        clients = [_Client(self._producer_of(settings, number)) for number in range(1, _PRODUCERS + 1)]
        with _begun(properties):
            for client in clients:
                client.producer.init_transactions(INIT_TIMEOUT_S)
        self._turns = cycle(clients)
        self._clients, self._own = clients, clients[0]

    @staticmethod
    def _producer_of(settings: Identified, number: int) -> Producer:
        own = kafka.client_properties(
            settings.kafka_properties,
            transactional_id=settings.named("relay", number),
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            delivery_report_only_error=True,
            queue_buffering_max_messages=_QUEUE_MESSAGES_MAX,
            message_max_bytes=settings.record_bytes_max,
            linger_ms=5,  # for full batches; a commit waits for nothing
        )
        with kafka.legal(settings.kafka_properties):
            return Producer(own)

    def _records(self, tick: Tick) -> Iterator[Record]:
        return records_of(self._settings.store, self._settings.source, tick)

    def publish(self, tick: Tick, fixed: Future[None]) -> None:
        """Send a tick, wait until it is ``fixed``, and commit it; raises what these raise."""
        self.send(tick)
        fixed.result(COMMIT_TIMEOUT_S)
        self.commit(tick)

    def send(self, tick: Tick) -> None:
        """Send the records of a tick, in a transaction that ``commit`` ends.

        Raises:
            PublishRefusedError: Kafka will never take one of them; the tick was aborted.
            TopicError: Kafka does not let us write to a topic; the same.
            TickAbortedError: aborted for a passing reason.
            RelayFencedError: another relay took over.
            OutcomeUnknownError: this producer cannot tell, or cannot go on.
        """
        self._failed.clear()
        self._sent.clear()
        self._own = next(self._turns)
        time.sleep(max(0.0, self._own.committed_at + _MARKERS_S - time.monotonic()))
        with self._settled(tick):
            self._own.producer.begin_transaction()
            for record in self._records(tick):
                self._produce(record)

    def commit(self, tick: Tick) -> None:
        """Commit what was sent of a tick, all or nothing; raises what ``send`` raises."""
        with self._settled(tick):
            self._commit()
        self._own.committed_at = time.monotonic()
        if self._failed:  # librdkafka fails the commit then; this makes sure
            raise OutcomeUnknownError("A transaction was committed although a record failed.")
        self.last.update(self._sent)

    def close(self) -> None:
        """Let go of the producers; what is not sent is discarded, an open transaction left to the next relay."""
        for client in self._clients:
            # A fenced producer says so once more, or its client fails over a callback. Nothing is left to lose here.
            with suppress(KafkaException, SystemError):
                client.producer.purge()
                client.producer.flush(1.0)

    def _produce(self, record: Record) -> None:
        topic, stream, value, headers, timestamp, position = record
        producer = self._own.producer
        # Not left to librdkafka, which follows what somebody does to a topic: a stream would go on in another one.
        partition = partition_of(stream, self.partitions[topic])
        place, sent = (topic, partition), self._sent
        headers.append(previous_header(sent[place] if place in sent else self.last.get(place, 0)))
        sent[place] = position
        while True:
            try:
                # One callback for all of them: a closure for each record would be the dearest thing about it.
                producer.produce(topic, value, stream, partition, self._report, None, timestamp, headers)
            except BufferError:
                producer.poll(0.05)
            except KafkaException as error:
                self._failed.append(_Failure(topic, stream, value, error.args[0]))
                raise
            else:
                return

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(_Failure(message.topic(), message.key(), message.value(), error))

    def _commit(self) -> None:
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        while True:
            try:
                self._own.producer.commit_transaction(_CALL_TIMEOUT_S)
            except KafkaException as error:
                # A commit that timed out goes on where it was when it is called again.
                if not error.args[0].retriable() or time.monotonic() > deadline:
                    raise
                _log.warning("relay.commit_slow", error=error.args[0].str())
            else:
                return

    @contextmanager
    def _settled(self, tick: Tick) -> Iterator[None]:
        """Abort when Kafka fails a call, and raise what it means."""
        try:
            with _plain():
                yield
        except KafkaException as error:
            self._abort_or_raise(error.args[0], tick)

    def _abort_or_raise(self, error: KafkaError, tick: Tick) -> NoReturn:
        if error.code() in _FENCED:
            raise RelayFencedError(f"Another relay took over: {error.str()}")
        if error.fatal() or not (error.txn_requires_abort() or self._failed):
            raise OutcomeUnknownError(f"The Kafka producer cannot go on ({error.name()}: {error.str()}).")
        refused = self._refused()
        try:
            self._abort()
        except OutcomeUnknownError:  # where nothing could be added to the transaction, Kafka knows of none to abort
            if refused is None and error.code() not in _REFUSED:
                raise
        if refused is not None:
            raise self._named(refused, tick)
        if error.code() in _REFUSED:
            topics = ", ".join(sorted({topic_of(self._settings.store, row["category"]) for row in tick.rows}))
            raise TopicError(
                f"Kafka refused tick {tick.number}, which goes to {topics} ({error.name()}: {error.str()}). Nothing "
                "of it is published, and nothing after it, until the cause is removed: the relay needs WRITE on "
                "these topics."
            )
        raise TickAbortedError(f"Kafka aborted the tick ({error.name()}: {error.str()}).")

    def _refused(self) -> _Failure | None:
        """Return the first record that was refused; a batch is refused for the one in it that is too large."""
        found = [failure for failure in self._failed if failure.error.code() in _REFUSED]
        large = [failure for failure in found if failure.error.code() in _TOO_LARGE]
        return max(large, key=lambda failure: len(failure.value or b"")) if large else next(iter(found), None)

    def _named(self, refused: _Failure, tick: Tick) -> PublishRefusedError:
        """Find out which event it was: a delivery report has no headers."""
        key = refused.key.decode() if isinstance(refused.key, bytes) else refused.key
        for topic, stream, value, headers, *_ in self._records(tick):
            if (topic, stream, value) == (refused.topic, key, refused.value):
                texts = {name: text for name, text in headers if isinstance(text, str)}
                version, event_id = int(texts["ce_streamversion"]), UUID(texts["ce_id"])
                return PublishRefusedError(topic, stream, version, event_id, refused.error.str())
        raise AssertionError(f"Kafka reports a record that tick {tick.number} does not have: key {key!r}")

    def _abort(self) -> None:
        try:
            with kafka.translated(self._properties), _plain():
                self._own.producer.abort_transaction(COMMIT_TIMEOUT_S)
        except (KafkaException, KafkaUnavailableError) as error:
            raise OutcomeUnknownError(f"The tick could not be aborted: {error}") from error
