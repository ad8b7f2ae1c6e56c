"""Streams, queries and subscriptions."""

from gatelog.reader.reader import Reader
from gatelog.reader.subscriptions import Failures, Park, Retry, Skip, Standing, Start, Stop, Subscription, standings

__all__ = ["Failures", "Park", "Reader", "Retry", "Skip", "Standing", "Start", "Stop", "Subscription", "standings"]
