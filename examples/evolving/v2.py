"""The order service, version 2: a field is added. Its default is what older events have."""

from enum import Enum

from gatelog.schemas import Event
from gatelog.schemas.avro_types import Int32, named


@named(default="OTHER")
class Channel(Enum):
    """Where an order came from."""

    OTHER = "OTHER"
    WEB = "WEB"


class OrderPlaced(Event, event_type="evolving.OrderPlaced", schema_version=2):
    """Somebody ordered something."""

    customer: str
    quantity: Int32
    channel: Channel
    discount_percent: Int32 = 0
    note: str = ""


EXAMPLE = [OrderPlaced(customer="ben", quantity=2, channel=Channel.WEB, note="ring twice")]
