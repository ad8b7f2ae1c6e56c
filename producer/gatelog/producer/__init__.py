"""Append and publish: the gate, the outbox, the relay."""

from gatelog.core.domain import ANY, NO_STREAM, STREAM_EXISTS
from gatelog.producer.gate import Appended
from gatelog.producer.producer import HistoricEvent, Loaded, Producer, StreamAppend
from gatelog.producer.retrying import retry_on_conflict

__all__ = [
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Appended",
    "HistoricEvent",
    "Loaded",
    "Producer",
    "StreamAppend",
    "retry_on_conflict",
]
