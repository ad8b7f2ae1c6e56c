"""Streams, queries and subscriptions."""

from gatelog.reader.reader import Reader
from gatelog.reader.subscriptions import Failures, Park, Retry, Skip, Start, Stop, Subscription

__all__ = ["Failures", "Park", "Reader", "Retry", "Skip", "Start", "Stop", "Subscription"]
