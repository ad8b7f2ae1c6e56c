"""What an event looks like, now and before: models, Avro, envelope and headers, registry."""

from gatelog.schemas.envelope import RecordedEvent
from gatelog.schemas.event import Event, NewEvent, StreamClosed
from gatelog.schemas.indexed import Indexed
from gatelog.schemas.upcasting import Part, upcast

__all__ = ["Event", "Indexed", "NewEvent", "Part", "RecordedEvent", "StreamClosed", "upcast"]
