"""A small projection: how many lines changed, by author and by top folder."""

from collections import Counter
from dataclasses import dataclass, field

from gatelog.console.git.events import FileAdded, FileChange, FileDeleted, FileModified, FileRenamed
from gatelog.schemas import RecordedEvent


@dataclass
class Churn:
    """Lines added and removed. Delivery is at least once: a stream's last version tells a repetition."""

    events: int = 0
    authors: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    versions: dict[str, int] = field(default_factory=dict)

    def apply(self, event: RecordedEvent) -> None:
        """Count an event, once."""
        change = event.data
        assert isinstance(change, FileChange)
        if event.version <= self.versions.get(event.stream, 0):
            return
        self.versions[event.stream] = event.version
        self.events += 1
        self.authors[change.author] += _lines(change)
        self.folders[change.path.split("/")[0] + "/" if "/" in change.path else "(top)"] += _lines(change)


def _lines(change: FileChange) -> int:
    match change:
        case FileAdded():
            return change.lines_added or 0
        case FileDeleted():
            return change.lines_removed or 0
        case FileModified() | FileRenamed():
            return (change.lines_added or 0) + (change.lines_removed or 0)
        case _:
            return 0
