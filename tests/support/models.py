"""Events that tests append."""

from decimal import Decimal
from uuid import UUID

from pydantic import Field

from gatelog.schemas import Event


class OrderPlaced(Event):
    """An order as a shop would record it."""

    order_id: UUID
    customer: str
    total: Decimal = Field(max_digits=12, decimal_places=2)


class Noted(Event):
    """The smallest useful event."""

    text: str
