"""What a git history records about a file. The lines are None for binary files."""

from pydantic import AwareDatetime

from gatelog.schemas import Event


class FileChange(Event):
    """What every change of a file has in common."""

    commit: str
    author: str
    email: str
    at: AwareDatetime
    path: str


class FileAdded(FileChange):
    """The file came into being."""

    lines_added: int | None


class FileModified(FileChange):
    """Its content, mode or kind changed."""

    lines_added: int | None
    lines_removed: int | None


class FileRenamed(FileChange):
    """It got this path, and maybe other content. The old path's stream ends without an event."""

    old_path: str
    lines_added: int | None
    lines_removed: int | None


class FileDeleted(FileChange):
    """It ceased to be."""

    lines_removed: int | None


FILE_EVENTS = (FileAdded, FileModified, FileRenamed, FileDeleted)
