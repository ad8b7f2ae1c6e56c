"""Streams, queries and subscriptions."""

from gatelog.reader.reader import Reader
from gatelog.reader.subscriptions import Failures, Park, Retry, Skip, Standing, Start, Stop, Subscription, standings
from gatelog.reader.subscriptions.projection import Projection

__all__ = [
    "Failures",
    "Park",
    "Projection",
    "Reader",
    "Retry",
    "Skip",
    "Standing",
    "Start",
    "Stop",
    "Subscription",
    "standings",
]
