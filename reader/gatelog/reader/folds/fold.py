"""Folding a stream: from a snapshot, if there is one that fits, else from the first event.

A snapshot is a guess until its last event has been read: the event with that version must have the same id. So a
snapshot of a history that was cut back, by a restore, is found out. The check costs one row, and no statement.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from gatelog.core import logs
from gatelog.core.errors import GatelogError, InvalidInputError, SchemaError
from gatelog.core.telling import told
from gatelog.reader.folds.alike import alike
from gatelog.reader.folds.snapshots import BYTES_MAX, Snapshot, SnapshotKey, Snapshots
from gatelog.reader.folds.state import State, fingerprint, name_of
from gatelog.schemas.envelope import RecordedEvent

StateT = TypeVar("StateT", bound=State)

_log = logs.logger("reader")
_said: Final[set[str]] = set()  # the states of which it was said, once in a process, why they have no snapshots


class NotKeptError(GatelogError):
    """A state of which no snapshot can be kept."""


class ReadStream(Protocol):
    """``Reader.stream``."""

    def __call__(
        self, stream: str, *, from_version: int | None = None, to_version: int | None = None
    ) -> AsyncIterator[RecordedEvent]:
        """Yield events by version, both ends included."""
        ...


@dataclass
class _Folded(Generic[StateT]):
    """A state on its way, and what a snapshot of it needs."""

    state: StateT
    version: int = 0
    last: RecordedEvent | None = None
    recorded_at: datetime | None = None  # the latest
    fresh: int = 0  # events since the snapshot

    def apply(self, event: RecordedEvent) -> None:
        self.state.apply(event)
        self.version, self.last = event.version, event
        self.recorded_at = event.recorded_at if self.recorded_at is None else max(self.recorded_at, event.recorded_at)
        self.fresh += event.part == 1


async def fold(
    read: ReadStream,
    snapshots: Snapshots,
    stream: str,
    state: type[StateT],
    *,
    version: int | None,
    at: datetime | None,
    snapshot_every: int,
) -> StateT:
    """Return the state of a stream now, or as of a version or a time; see ``Reader.fold``."""
    if version is not None and version < 1:
        raise InvalidInputError(f"Fold of {stream!r} as of version {version}; the first version is 1.")
    if snapshot_every < 0:
        raise InvalidInputError(f"Fold of {stream!r}: snapshot_every is {snapshot_every}; 0 is never.")
    if at is not None and at.tzinfo is None:
        raise InvalidInputError(f"Fold of {stream!r}: at={at!r} has no time zone.")
    key = _key_of(stream, state) if snapshot_every else None
    found: _Folded[StateT] | None = None
    kept: Snapshot | None = None
    if key is not None:
        kept = await snapshots.load(key)
        if (
            kept is not None
            and (version is None or kept.version <= version)
            and (at is None or kept.recorded_at <= at)
        ):
            found = await _from_snapshot(read, stream, state, kept, version, at)
    if found is None:
        found = _Folded(state())
        await _take(read(stream, to_version=version), found, at)
    if key is not None and version is None and at is None:
        is_wrong = kept is not None and found.fresh == found.version  # it was there, and was not used
        if found.fresh >= snapshot_every or is_wrong:
            await _keep(snapshots, key, found, replace=is_wrong)
    found.state._stream_version = found.version
    return found.state


def _key_of(stream: str, state: type[State]) -> SnapshotKey | None:
    """Return under what a state's snapshots are kept; None if there can be none."""
    key = SnapshotKey(stream, name_of(state), "")
    try:
        return key._replace(fingerprint=fingerprint(state))
    except SchemaError as error:
        _say_once(key, error)
        return None


async def _take(
    events: AsyncIterator[RecordedEvent], found: _Folded[StateT], at: datetime | None, known: int = 0
) -> None:
    """Apply events; the parts of version ``known`` are in the state already."""
    async with aclosing(events) as bounded:  # type: ignore[type-var] # an async generator
        async for event in bounded:
            if event.version == known:
                continue
            if at is not None and event.recorded_at > at:
                return
            found.apply(event)


async def _from_snapshot(
    read: ReadStream, stream: str, state: type[StateT], kept: Snapshot, version: int | None, at: datetime | None
) -> _Folded[StateT] | None:
    """Return the fold that goes on from a snapshot; None if the snapshot cannot be used."""
    try:
        found = _Folded(state.model_validate_json(kept.state), kept.version, None, kept.recorded_at)
    except Exception as error:  # noqa: BLE001 - it is of an older class, or somebody has spoiled it
        _log.warning("snapshot.unreadable", stream=stream, state=state.__name__, error=told(error))
        return None
    events = read(stream, from_version=kept.version, to_version=version)
    async with aclosing(events) as behind:  # type: ignore[type-var] # an async generator
        first = await anext(behind, None)
        if first is None or (first.version, first.id) != (kept.version, kept.event_id):
            _log.warning("snapshot.of_another_history", stream=stream, state=state.__name__, version=kept.version)
            return None
        try:
            await _take(behind, found, at, kept.version)
        except GatelogError:
            raise
        except Exception as error:  # noqa: BLE001 - if it is not the snapshot's fault, the events raise it again
            _log.warning("snapshot.unfit", stream=stream, state=state.__name__, error=told(error))
            return None
    return found


def text_of(state: State) -> str:
    """Return a state as JSON from which it comes back as it is.

    Raises:
        NotKeptError: there is no such JSON, or it is too large.
    """
    try:
        text = state.model_dump_json(by_alias=True, warnings=False)
        is_alike = alike(state, type(state).model_validate_json(text))
    except Exception as error:  # its fields' own code says whatever it likes
        raise NotKeptError(told(error)) from error
    if not is_alike:
        raise NotKeptError("it does not come back from JSON as it was")
    if len(text) > BYTES_MAX:
        raise NotKeptError(f"it is over {BYTES_MAX:,} bytes")
    return text


async def _keep(snapshots: Snapshots, key: SnapshotKey, found: _Folded[StateT], *, replace: bool) -> None:
    if found.last is None or found.recorded_at is None:
        return
    try:
        text = text_of(found.state)
    except NotKeptError as error:
        _say_once(key, error)
        return
    await snapshots.save(key, Snapshot(found.version, found.last.id, found.recorded_at, text), replace=replace)


def _say_once(key: SnapshotKey, error: Exception) -> None:
    """States have many streams, and are folded over and over."""
    if key.state_type not in _said:
        _said.add(key.state_type)
        _log.warning("snapshot.refused", stream=key.stream, state=key.state_type, reason=told(error))
