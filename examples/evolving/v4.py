"""The order service, version 4: a number outgrows 32 bits. Avro reads an int as a long, not the other way round."""

from enum import Enum
from typing import Annotated

from gatelog.schemas import Event
from gatelog.schemas.avro_types import Aliases, Int32, named


@named(default="OTHER")
class Channel(Enum):
    """Where an order came from."""

    OTHER = "OTHER"
    WEB = "WEB"


class OrderPlaced(Event, event_type="evolving.OrderPlaced", schema_version=4):
    """Somebody ordered something."""

    buyer: Annotated[str, Aliases("customer")]
    quantity: int
    channel: Channel
    discount_percent: Int32 = 0
    note: str = ""


EXAMPLE = [OrderPlaced(buyer="dan", quantity=4_000_000_000, channel=Channel.WEB)]
