"""The order service, version 3: a field has another name. Its alias says which one it had."""

from enum import Enum
from typing import Annotated

from gatelog.schemas import Event
from gatelog.schemas.avro_types import Aliases, Int32, named


@named(default="OTHER")
class Channel(Enum):
    """Where an order came from."""

    OTHER = "OTHER"
    WEB = "WEB"


class OrderPlaced(Event, event_type="evolving.OrderPlaced", schema_version=3):
    """Somebody ordered something."""

    buyer: Annotated[str, Aliases("customer")]
    quantity: Int32
    channel: Channel
    discount_percent: Int32 = 0
    note: str = ""


EXAMPLE = [OrderPlaced(buyer="cem", quantity=3, channel=Channel.WEB)]
