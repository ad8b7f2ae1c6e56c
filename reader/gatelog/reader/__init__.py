"""Streams, queries and subscriptions."""

from gatelog.reader.folds import State
from gatelog.reader.query import Page, Query
from gatelog.reader.reader import Reader
from gatelog.reader.subscriptions import Failures, Park, Retry, Skip, Standing, Start, Stop, Subscription, standings
from gatelog.reader.subscriptions.following import follow
from gatelog.reader.subscriptions.projection import Projection
from gatelog.reader.subscriptions.projection_standing import ProjectionStanding, projection_standings
from gatelog.reader.subscriptions.transform import Outgoing, Transform
from gatelog.reader.where import Condition, field

__all__ = [
    "Condition",
    "Failures",
    "Outgoing",
    "Page",
    "Park",
    "Projection",
    "ProjectionStanding",
    "Query",
    "Reader",
    "Retry",
    "Skip",
    "Standing",
    "Start",
    "State",
    "Stop",
    "Subscription",
    "Transform",
    "field",
    "follow",
    "projection_standings",
    "standings",
]
