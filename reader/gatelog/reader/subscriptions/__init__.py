"""Subscriptions: consumer groups with handlers, in production."""

from gatelog.reader.subscriptions.failures import Failures, Park, Retry, Skip, Stop
from gatelog.reader.subscriptions.standing import MemberStanding, Standing, standings
from gatelog.reader.subscriptions.starts import Start
from gatelog.reader.subscriptions.subscription import Subscription

__all__ = [
    "Failures",
    "MemberStanding",
    "Park",
    "Retry",
    "Skip",
    "Standing",
    "Start",
    "Stop",
    "Subscription",
    "standings",
]
