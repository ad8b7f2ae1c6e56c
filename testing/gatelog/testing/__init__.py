"""A store in memory, for users' own unit tests: the same producer and reader, the same answers, no services."""

from gatelog.testing.store import MemoryStore

__all__ = ["MemoryStore"]
