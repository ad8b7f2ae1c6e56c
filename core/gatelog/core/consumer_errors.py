"""The errors of projections and subscriptions; a part of the tree in ``errors``."""

from gatelog.core.errors import GatelogError
from gatelog.core.telling import told

# --- projections -----------------------------------------------------------------------------------


class ProjectionNotPreparedError(GatelogError):
    """The projection has no checkpoints in the database of its read model."""

    exit_code = 4

    def __init__(self, projection: str, where: str) -> None:
        self.projection = projection
        super().__init__(
            f"Projection {projection!r} was not prepared in the database at {where}. Run `gatelog projection "
            "prepare`, or `await projection.prepare()`, once, as a role that may make tables there."
        )


class ProjectionReplacedError(GatelogError):
    """A newer version of the projection is live, or is being built: this program is too old for it."""

    exit_code = 4

    def __init__(self, projection: str, version: int, found: int) -> None:
        self.projection, self.version, self.found = projection, version, found
        super().__init__(
            f"Projection {projection!r}: version {found} has taken the place of version {version}, which is this "
            "program's. Run the newer program."
        )


class ProjectionFailedError(GatelogError):
    """The function of a projection or transform raised an error, or caught one of Postgres. Later events wait."""

    exit_code = 9
    is_of_program = True

    def __init__(
        self,
        projection: str,
        stream: str,
        version: int,
        position: int | None,
        event_type: str,
        cause: BaseException | None,
    ) -> None:
        self.projection, self.stream, self.version, self.position = projection, stream, version, position
        why = f": {told(cause)}" if cause is not None else ""
        super().__init__(
            f"The function of {projection!r} failed on {event_type} (stream {stream!r} version {version}, position "
            f"{position}){why}. Nothing of the event was written, and everything handled before is kept. Repair the "
            "function and start again: it goes on with this event."
        )


# --- subscriptions ---------------------------------------------------------------------------------


class HandlerTimeoutError(GatelogError):
    """A handler was given up because it took too long."""

    retryable = True
    exit_code = 12

    def __init__(self, stream: str, version: int, timeout_s: float) -> None:
        self.stream, self.version, self.timeout_s = stream, version, timeout_s
        super().__init__(
            f"The handler of {stream!r} version {version} took over {timeout_s:g} s (handler_timeout_s)."
        )


class ParkedFullError(GatelogError):
    """As many events of a subscription are parked as may be: it stops, and skips nothing."""

    exit_code = 6

    def __init__(self, subscription: str, limit: int) -> None:
        self.subscription, self.limit = subscription, limit
        super().__init__(
            f"Subscription {subscription!r}: {limit:,} events are parked, the bound (parked_events_max). Something "
            "is wrong with more than single events: see `gatelog parked list`; replay or drop, then start again."
        )


class ParkedNotFoundError(GatelogError):
    """No such event is parked."""

    exit_code = 10

    def __init__(self, subscription: str, what: str) -> None:
        self.subscription, self.what = subscription, what
        super().__init__(f"Subscription {subscription!r}: {what} is not parked. See `gatelog parked list`.")


class TransactionEndedError(GatelogError):
    """The function of a projection has ended the transaction that it was given."""

    exit_code = 9

    def __init__(self, projection: str) -> None:
        """``projection``: its name."""
        self.projection = projection
        super().__init__(
            f"The function of projection {projection!r} has ended the transaction that it was given: what it wrote "
            "is stored without the checkpoint, and will come again. It must neither COMMIT nor ROLLBACK. Correct it, "
            "and rebuild the read model: `gatelog projection rebuild`."
        )


class SessionChangedError(GatelogError):
    """The function of a projection has changed the search path of its session for good."""

    exit_code = 9

    def __init__(self, projection: str, was: str, found: str) -> None:
        """``projection``: its name. ``was``, ``found``: the search path."""
        self.projection, self.was, self.found = projection, was, found
        super().__init__(
            f"The function of projection {projection!r} has changed the search_path of its session from {was} to "
            f"{found}. Later batches would write into other tables, those of a rebuild into the live read model: "
            "nothing of this one was written. Let the function use SET LOCAL, or names with a schema."
        )


class ParkedWithoutPayloadError(GatelogError):
    """An event is parked without its payload, which its stream does not hold any more."""

    exit_code = 8

    def __init__(self, topic: str, event_id: str, stream: str, version: int) -> None:
        self.topic, self.event_id, self.stream, self.version = topic, event_id, stream, version
        super().__init__(
            f"Event {event_id} was too large for topic {topic!r}, and is parked there without its payload. It would"
            f" be read from stream {stream!r}; version {version} is not there, or is another event. If index or gate "
            "were lost, bring them back (docs/operations.md) and replay it again; or drop it (gatelog parked drop)."
        )
