"""Streams, queries and subscriptions."""

from gatelog.reader.reader import Reader
from gatelog.reader.subscription import Subscription

__all__ = ["Reader", "Subscription"]
