"""The one tree of errors: what happened, to which stream or topic, and what to do next.

Every class carries its facts as attributes, so that a caller decides on them and never on the text.
``retryable`` says whether the same call may succeed later without a change by the caller.
``exit_code`` is what the command line ends with. ``is_of_program`` says that the user's own code has failed: its
traceback helps.
"""

from collections.abc import Sequence
from typing import ClassVar
from uuid import UUID


class GatelogError(Exception):
    """Something went wrong in gatelog."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    is_of_program: ClassVar[bool] = False


# --- settings and services -------------------------------------------------------------------------


class SettingsError(GatelogError):
    """A setting is missing or wrong."""

    exit_code = 2


class LocalServiceError(GatelogError):
    """A local Postgres or Kafka could not be installed, started or stopped."""

    exit_code = 3


class PostgresUnavailableError(GatelogError):
    """Postgres does not answer, or ended the connection; what was in flight may or may not have happened."""

    retryable = True
    exit_code = 3


class PostgresRefusedError(GatelogError):
    """Postgres refused an append for a reason that gatelog does not know: a privilege, a constraint of your own."""

    exit_code = 3

    def __init__(self, stream: str, why: str) -> None:
        self.stream = stream
        super().__init__(f"Append to {stream!r}: Postgres refused it, and stored nothing of it: {why}")


class KafkaUnavailableError(GatelogError):
    """Kafka does not answer in time."""

    retryable = True
    exit_code = 3


class StoreNotInitialisedError(GatelogError):
    """The store has no tables in this database, lacks one of them, or they are older than this program."""

    exit_code = 4

    def __init__(self, store: str, found: int, needed: int, lacking: str | None = None) -> None:
        self.store, self.found, self.needed = store, found, needed
        state = f"is at migration {found} of {needed}" if found else "has no tables in this database"
        if lacking is not None:
            state = f"has no tables in this database, or has lost one ({lacking})"
        super().__init__(
            f"Store {store!r} {state}. Run `gatelog init`: it makes what is missing, and says what to do next."
        )


class StoreAwaitsError(GatelogError):
    """A table of the store was lost and made anew, and what it held was not brought back yet."""

    exit_code = 8

    def __init__(self, store: str, why: str) -> None:
        self.store = store
        super().__init__(f"Store {store!r}: {why} (docs/operations.md says more).")


class StoreNewerThanProgramError(GatelogError):
    """The store's tables were made by a newer gatelog."""

    exit_code = 4

    def __init__(self, store: str, found: int, known: int) -> None:
        self.store, self.found, self.known = store, found, known
        super().__init__(
            f"Store {store!r} is at migration {found}, this gatelog knows {known}. Upgrade this program."
        )


class IndexPlaceError(GatelogError):
    """The index is not where the settings say: another number or order of shards, or another store's database."""

    exit_code = 4

    def __init__(self, store: str, why: str) -> None:
        self.store = store
        super().__init__(f"Store {store!r}: {why}")


class RegistryUnavailableError(GatelogError):
    """The schema registry does not answer, or says that it cannot right now."""

    retryable = True
    exit_code = 3


# --- appends ---------------------------------------------------------------------------------------


class InvalidInputError(GatelogError):
    """A value was refused at the door, before anything was sent."""

    exit_code = 2


class UserModuleError(InvalidInputError):
    """A module of the user's program is not there, or does not load."""

    def __init__(self, module: str, why: str) -> None:
        self.module = module
        super().__init__(f"Module {module} cannot be imported: {why}.")


class InvalidStreamIdError(InvalidInputError):
    """The stream id is not legal."""

    def __init__(self, stream: object, why: str) -> None:
        self.stream = stream
        super().__init__(f"Stream id {stream!r} {why}. Legal: 'Category-key', for example 'Order-42'.")


class InvalidEventError(InvalidInputError):
    """The event does not fit its schema, is too large, or holds what cannot be stored."""

    def __init__(self, stream: str, event_type: str, why: str) -> None:
        self.stream, self.event_type = stream, event_type
        super().__init__(f"Event {event_type} for stream {stream!r} refused: {why}")


class ConflictError(GatelogError):
    """The stream is not at the expected version. Reload it, decide again, append again."""

    exit_code = 5

    def __init__(self, stream: str, expected: object, actual: int) -> None:
        self.stream, self.expected, self.actual = stream, expected, actual
        there = f"is at version {actual}" if actual else "does not exist"
        super().__init__(f"Stream {stream!r}: expected {expected}, but it {there}. Reload, decide again, append.")


class StreamClosedError(GatelogError):
    """The stream was closed: it takes no more events."""

    exit_code = 5

    def __init__(self, stream: str, version: int) -> None:
        self.stream, self.version = stream, version
        super().__init__(
            f"Stream {stream!r} was closed at version {version} and takes no more events; they stay readable. "
            "Go on in a new stream."
        )


class EventIdReusedError(GatelogError):
    """Some ids of the append are stored already, but not all of them as this very append."""

    exit_code = 5

    def __init__(self, stream: str, known: int, sent: int, example: UUID) -> None:
        self.stream, self.known, self.sent, self.example = stream, known, sent, example
        super().__init__(
            f"Append to {stream!r}: {known} of its {sent} event ids (first: {example}) are stored already, "
            "and not as this same append. A retry repeats exactly the same events; new events need new ids."
        )


class BacklogFullError(GatelogError):
    """The outbox holds as many unpublished events as it may. Reads go on; appends wait for the relay."""

    retryable = True
    exit_code = 6

    def __init__(self, store: str, limit: int) -> None:
        self.store, self.limit = store, limit
        super().__init__(
            f"Store {store!r}: {limit:,} events wait for Kafka, the configured bound (outbox_events_max). "
            "Appends are refused until the relay catches up: see `gatelog status`."
        )


class AppendTimeoutError(GatelogError):
    """No answer in time: the append happened or not. Repeating it with the same event ids tells."""

    retryable = True
    exit_code = 6

    def __init__(self, stream: str, events: tuple[object, ...], timeout_s: float) -> None:
        self.stream, self.events = stream, events
        super().__init__(
            f"Append to {stream!r}: no answer in {timeout_s:g} s, so it happened or not. "
            "Append `error.events` again: with the same event ids it is stored once."
        )


# --- publishing and indexing -----------------------------------------------------------------------


class PublishRefusedError(GatelogError):
    """Kafka refused a record: its whole tick was aborted and nothing after it was published."""

    exit_code = 7

    def __init__(self, topic: str, stream: str, version: int, event_id: UUID, why: str) -> None:
        self.topic, self.stream, self.version, self.event_id = topic, stream, version, event_id
        super().__init__(
            f"Kafka refused event {event_id} ({stream!r} version {version}) for topic {topic!r}: {why}. "
            "The tick was aborted and nothing after it is published until the cause is removed."
        )


class RelayFencedError(GatelogError):
    """Another relay took over this store; this one stops and publishes nothing more."""

    exit_code = 7


class LogMismatchError(GatelogError):
    """Postgres and Kafka disagree about what was published. Nothing was changed."""

    exit_code = 8

    def __init__(self, why: str) -> None:
        super().__init__(f"{why} To see what differs, and what repairs it, run: gatelog reconcile")


class HistoryGoneError(GatelogError):
    """The next record of a subscription is gone from its topic, and not in the index. Nothing was skipped."""

    exit_code = 8

    def __init__(self, topic: str, partition: int, offset: int | None, why: str) -> None:
        self.topic, self.partition, self.offset = topic, partition, offset
        super().__init__(
            f"Topic {topic!r} partition {partition}: the next record to read is gone from Kafka ({why}). Retention "
            "removed it, the topic was made anew, or brokers have lost its end. Nothing was skipped. Bring the "
            "records back (`gatelog republish`), or begin behind them under another name (Start.after, start_after)."
        )

    @property
    def where(self) -> tuple[str, int, int | None]:
        """Topic, partition and offset: to begin again helps once at each, and not twice."""
        return self.topic, self.partition, self.offset


class ReconcileRefusedError(GatelogError):
    """What differs between Postgres and Kafka cannot be repaired as asked. Nothing was changed."""

    exit_code = 8


class RebuildRefusedError(GatelogError):
    """A rebuilt index may not take the place of the live one. The live index was not changed."""

    exit_code = 8


class RebuildActiveError(GatelogError):
    """Another rebuild of the same index is at work."""

    retryable = True
    exit_code = 6

    def __init__(self, store: str) -> None:
        self.store = store
        super().__init__(
            f"Store {store!r}: another `gatelog index rebuild` is at work. Let it finish, or stop it first."
        )


class RelayActiveError(GatelogError):
    """A relay is active on the store, so that nothing else may decide what was published."""

    retryable = True
    exit_code = 6

    def __init__(self, store: str, holder: str) -> None:
        self.store, self.holder = store, holder
        super().__init__(
            f"Store {store!r}: a relay is active, or another `gatelog reconcile`. Last relay: {holder or 'none'}. "
            "Stop every `gatelog relay` and `gatelog run` of the store first, then run `gatelog reconcile` again."
        )


class TopicError(GatelogError):
    """A topic is missing, cannot be created, or is not as configured."""

    exit_code = 8


class UndecodableRecordError(GatelogError):
    """A Kafka record, or stored bytes, are not what gatelog writes."""

    exit_code = 9


class IndexIncompleteError(GatelogError):
    """An index outside the gate's database lacks events that have left the outbox: it was lost, or restored."""

    retryable = True
    exit_code = 6

    def __init__(self, store: str, shard: int, frontier: int, needed: int) -> None:
        self.store, self.shard, self.frontier, self.needed = store, shard, frontier, needed
        super().__init__(
            f"Store {store!r}: shard {shard} of the index is whole up to position {frontier:,} only, but events up "
            f"to {needed:,} have left the outbox. It was restored or made anew. Reads of its streams are refused "
            "until indexers have filled it again: see `gatelog status`."
        )


# --- reading and schemas ---------------------------------------------------------------------------


class StreamIncompleteError(GatelogError):
    """Versions of a stream are missing between others. Nothing of the page was returned."""

    exit_code = 8

    def __init__(self, stream: str, first: int, last: int) -> None:
        self.stream, self.first, self.last = stream, first, last
        what = f"versions {first:,} to {last:,} are" if last > first else f"version {first:,} is"
        super().__init__(
            f"Stream {stream!r}: {what} missing in the index, and not in the outbox either. Nothing was returned. "
            "Were records kept aside (`gatelog index unreadable`)? Otherwise the index has lost them: `gatelog "
            "verify` says what is missing, and `gatelog index rebuild` brings back what Kafka holds."
        )


class StreamNotFoundError(GatelogError):
    """The stream has no events."""

    exit_code = 10

    def __init__(self, stream: str) -> None:
        self.stream = stream
        super().__init__(f"Stream {stream!r} has no events. Ids are case-sensitive: check spelling and category.")


class InvalidCursorError(InvalidInputError):
    """The cursor is not one of this store and query."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}. Pass a cursor on as it came, to the same query; or begin without one.")


class PayloadNotIndexedError(GatelogError):
    """The query looks at payloads, and the index holds none that SQL can see."""

    exit_code = 2

    def __init__(self, store: str) -> None:
        self.store = store
        super().__init__(
            f"Store {store!r}: the query has payload conditions (where), but index_jsonb is off. Read without "
            "them and filter in the program, or switch index_jsonb on and rebuild the index."
        )


class SchemaError(GatelogError):
    """A schema is unknown, illegal, or does not fit the model or bytes at hand."""

    exit_code = 11


class IncompatibleSchemaError(SchemaError):
    """A schema does not fit the versions of its subject that came before. Nothing was registered."""

    def __init__(self, subject: str, level: str, problems: Sequence[str]) -> None:
        self.subject, self.level, self.problems = subject, level, tuple(problems)
        super().__init__(
            f"The new schema of {subject} does not fit under {level}, and was not registered: " + "; ".join(problems)
        )


class WaitTimeoutError(GatelogError):
    """What was waited for did not happen in time; it may still happen."""

    retryable = True
    exit_code = 12
