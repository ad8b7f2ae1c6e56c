"""The relay: turns ticks of the outbox into Kafka transactions, exactly once, in order."""

from gatelog.producer.relay.relay import Relay

__all__ = ["Relay"]
