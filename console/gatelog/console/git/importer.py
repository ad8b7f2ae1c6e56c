"""Appends a git history to a store, each change once: event ids follow from commit and path."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from uuid import UUID, uuid5

from gatelog.console.git.events import FILE_EVENTS, FileAdded, FileChange, FileDeleted, FileModified, FileRenamed
from gatelog.console.git.history import Change, Repository
from gatelog.core.domain import ANY, check_stream_id
from gatelog.core.errors import InvalidStreamIdError
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.schemas import NewEvent

CATEGORY: Final = "File"
_NAMESPACE: Final = UUID("6f2d1c6e-5c0f-5d55-9a5c-1b1f0e7d9a10")  # any fixed id: event ids must come out the same
_COMMITS_AT_ONCE: Final = 500
_EVENTS_AT_ONCE: Final = 4_000
_KEY_BYTES_IN_LONG_ID: Final = 150


@dataclass
class Imported:
    """What an import has done so far. ``new`` and ``known`` are events, ``streams`` the events of each stream."""

    commits: int = 0
    new: int = 0
    known: int = 0
    streams: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    last: UUID | None = None


async def import_history(
    settings: Settings, repository: Repository, progress: Callable[[Imported], None]
) -> Imported:
    """Append every change of the history; what is stored already is left as it is.

    One batch is in flight at a time, so that positions follow the history over all files.
    """
    done = Imported()
    changes = repository.changes()
    async with Producer.connect(settings.model_copy(update={"append_connections": 1})) as producer:
        await producer.prepare(*FILE_EVENTS)
        while commits := await asyncio.to_thread(_take, changes):
            await _append(producer, [change for commit in commits for change in commit], done)
            done.commits += len(commits)
            progress(done)
    return done


def _take(changes: Iterator[list[Change]]) -> list[list[Change]]:
    """Some commits: enough changes for full batches, and few enough to hold in memory."""
    commits: list[list[Change]] = []
    events = 0
    for commit in islice(changes, _COMMITS_AT_ONCE):
        commits.append(commit)
        events += len(commit)
        if events >= _EVENTS_AT_ONCE:
            break
    return commits


async def _append(producer: Producer, changes: list[Change], done: Imported) -> None:
    events = [(stream_of(change.path), event_of(change)) for change in changes]
    answers = await asyncio.gather(
        *(producer.append(stream, [event], expected_version=ANY) for stream, event in events)
    )
    done.known += sum(answer.known for answer in answers)
    done.new += sum(not answer.known for answer in answers)
    done.streams.update(stream for stream, _ in events)
    done.types.update(event.data.event_type for _, event in events)
    if events:
        done.last = events[-1][1].id


def stream_of(path: bytes) -> str:
    """Return the stream of a path: ``File-<path>``; a path that is no legal key is cut and marked by its hash."""
    try:
        return check_stream_id(f"{CATEGORY}-{path.decode()}")
    except (InvalidStreamIdError, UnicodeDecodeError):
        legible = path[:_KEY_BYTES_IN_LONG_ID].decode(errors="ignore")
        printable = "".join(c if c.isprintable() else "?" for c in legible)
        return check_stream_id(f"{CATEGORY}-{printable}~{hashlib.sha256(path).hexdigest()[:32]}")


def event_of(change: Change) -> NewEvent:
    """Return the event of a change, with its own id, correlated by its commit."""
    commit = change.commit
    return NewEvent(
        _data_of(change),
        id=uuid5(_NAMESPACE, f"{commit.id}:{change.path.hex()}"),
        correlation_id=uuid5(_NAMESPACE, commit.id),
    )


def _data_of(change: Change) -> FileChange:
    commit, path = change.commit, change.path.decode(errors="replace")
    added, removed = change.lines_added, change.lines_removed
    who: dict[str, Any] = {"commit": commit.id, "author": commit.author, "email": commit.email}
    who |= {"at": commit.at, "path": path}
    match change.status:
        case "A":
            return FileAdded(**who, lines_added=added)
        case "M":
            return FileModified(**who, lines_added=added, lines_removed=removed)
        case "R":
            assert change.old_path is not None
            old = change.old_path.decode(errors="replace")
            return FileRenamed(**who, old_path=old, lines_added=added, lines_removed=removed)
        case "D":
            return FileDeleted(**who, lines_removed=removed)
        case other:
            raise AssertionError(other)
