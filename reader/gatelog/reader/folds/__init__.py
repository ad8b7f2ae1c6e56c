"""Folds: the state that a stream's events add up to, and snapshots of it."""

from gatelog.reader.folds.state import State

__all__ = ["State"]
