"""Streams, queries and subscriptions."""

from gatelog.reader.query import Page, Query
from gatelog.reader.reader import Reader
from gatelog.reader.subscription import Subscription
from gatelog.reader.where import Condition, field

__all__ = ["Condition", "Page", "Query", "Reader", "Subscription", "field"]
