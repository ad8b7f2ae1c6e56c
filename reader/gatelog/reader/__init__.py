"""Streams, queries and subscriptions."""

from gatelog.reader.reader import Reader
from gatelog.reader.subscription import Subscription
from gatelog.reader.subscriptions.projection import Projection

__all__ = ["Projection", "Reader", "Subscription"]
