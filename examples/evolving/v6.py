"""The order service, version 6: an event becomes two. Avro has no rule for that: an upcaster does it."""

from enum import Enum
from typing import Annotated, Any

from gatelog.schemas import Event, Part, upcast
from gatelog.schemas.avro_types import Aliases, Int32, named


@named(default="OTHER")
class Channel(Enum):
    """Where an order came from."""

    OTHER = "OTHER"
    WEB = "WEB"
    APP = "APP"


class OrderPlaced(Event, event_type="evolving.OrderPlaced", schema_version=6):
    """Somebody ordered something."""

    buyer: Annotated[str, Aliases("customer")]
    quantity: int
    channel: Channel
    note: str = ""


class DiscountGranted(Event, event_type="evolving.DiscountGranted", schema_version=1):
    """An order became cheaper."""

    percent: Int32


@upcast(OrderPlaced, from_version=5, into=[OrderPlaced, DiscountGranted])
def split(payload: dict[str, Any]) -> list[Part]:
    """Make two events of an order with a discount. Versions 1 to 4 are read as version 5 first, by Avro's rules."""
    percent = payload.pop("discount_percent")
    order = Part(OrderPlaced, payload, version=6)
    return [order, Part(DiscountGranted, {"percent": percent}, version=1)] if percent else [order]


EXAMPLE = [OrderPlaced(buyer="fay", quantity=6, channel=Channel.APP), DiscountGranted(percent=5)]
