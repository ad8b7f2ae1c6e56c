"""Subscriptions: consumer groups with handlers, in production."""

from gatelog.reader.subscriptions.failures import Failures, Park, Retry, Skip, Stop
from gatelog.reader.subscriptions.starts import Start
from gatelog.reader.subscriptions.subscription import Subscription

__all__ = ["Failures", "Park", "Retry", "Skip", "Start", "Stop", "Subscription"]
