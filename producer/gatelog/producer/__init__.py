"""Append and publish: the gate, the outbox, the relay."""

from gatelog.core.domain import ANY, NO_STREAM, STREAM_EXISTS
from gatelog.producer.gate import Appended
from gatelog.producer.producer import Producer

__all__ = ["ANY", "NO_STREAM", "STREAM_EXISTS", "Appended", "Producer"]
