"""The order service, version 5: an enum gets a symbol. Who does not know it reads the enum's default."""

from enum import Enum
from typing import Annotated

from gatelog.schemas import Event
from gatelog.schemas.avro_types import Aliases, Int32, named


@named(default="OTHER")
class Channel(Enum):
    """Where an order came from."""

    OTHER = "OTHER"
    WEB = "WEB"
    APP = "APP"


class OrderPlaced(Event, event_type="evolving.OrderPlaced", schema_version=5):
    """Somebody ordered something."""

    buyer: Annotated[str, Aliases("customer")]
    quantity: int
    channel: Channel
    discount_percent: Int32 = 0
    note: str = ""


EXAMPLE = [OrderPlaced(buyer="eve", quantity=5, channel=Channel.APP, discount_percent=50)]
