"""The store in memory."""

from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader
from gatelog.schemas.codec import Codec
from gatelog.testing.gate import MemoryGate
from gatelog.testing.registry import MemoryRegistry
from gatelog.testing.snapshots import MemorySnapshots
from gatelog.testing.source import MemorySource


class MemoryStore:
    """A producer and a reader over one list of events. What is appended is published and indexed at once.

    Events are encoded to Avro and decoded as in a real store, so that what does not fit its schema is refused
    here too. Not here: subscriptions, appends in a caller's Postgres transaction.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Start empty. ``settings``: the limits to hold."""
        settings = settings or Settings.load()
        registry = MemoryRegistry()
        gate = MemoryGate(settings)
        self.producer = Producer(settings, Codec(registry, register=settings.register_schemas), gate)
        codec = Codec(registry, register=False)
        self.reader = Reader(settings, codec, MemorySource(gate.log, codec), MemorySnapshots())
