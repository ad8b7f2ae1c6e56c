"""The order service, version 1: how it began."""

from enum import Enum

from gatelog.schemas import Event
from gatelog.schemas.avro_types import Int32, named


@named(default="OTHER")
class Channel(Enum):
    """Where an order came from. OTHER is what programs take for a channel that they do not know."""

    OTHER = "OTHER"
    WEB = "WEB"


class OrderPlaced(Event, event_type="evolving.OrderPlaced", schema_version=1):
    """Somebody ordered something."""

    customer: str
    quantity: Int32
    channel: Channel
    discount_percent: Int32 = 0


EXAMPLE = [OrderPlaced(customer="ann", quantity=1, channel=Channel.WEB, discount_percent=10)]
