"""Models to Avro bytes and back: an order with five items, decoded from the version before the newest.

CPU time of this process, in turns with what one would write by hand on fastavro and pydantic.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any, Final
from uuid import UUID

import fastavro
from bench import rivals
from bench.harness import Result, alternate, report
from pydantic import AwareDatetime, BaseModel, Field

from gatelog.schemas import Event, upcast
from gatelog.schemas.codec import Codec
from gatelog.testing.registry import MemoryRegistry

CALLS: Final = 20_000
_BYTES_MAX: Final = 1 << 20


class Item(BaseModel):
    """A line of an order."""

    sku: str
    quantity: int
    price: Decimal = Field(max_digits=12, decimal_places=2)


class Before(Event, event_type="bench.Ordered"):
    """What is stored."""

    order_id: UUID
    customer: str
    total: Decimal = Field(max_digits=12, decimal_places=2)
    at: AwareDatetime
    items: list[Item]


class Ordered(Event, event_type="bench.Ordered"):
    """What it is read as."""

    order_id: UUID
    customer: str
    total: Decimal = Field(max_digits=12, decimal_places=2)
    at: AwareDatetime
    items: list[Item]
    note: str = ""


class Renamed(Event, event_type="bench.Renamed"):
    """What an upcaster makes of ``Stored``."""

    buyer: str
    quantity: int


class Stored(Event, event_type="bench.Renamed"):
    """What Avro cannot read as ``Renamed``."""

    customer: str
    quantity: int


ORDER: Final[dict[str, Any]] = {
    "order_id": UUID(int=7),
    "customer": "ann lee",
    "total": Decimal("99.95"),
    "at": datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC),
    "items": [{"sku": f"SKU-{n:05}", "quantity": n + 1, "price": Decimal("19.99")} for n in range(5)],
}


def per_second(call: Callable[[], object], calls: int = CALLS) -> Callable[[], Awaitable[float]]:
    """Return a measure of how often ``call`` can be made in a second of CPU."""

    async def measure() -> float:
        began = time.process_time()
        for _ in range(calls):
            call()
        return calls / (time.process_time() - began)

    return measure


async def measure() -> list[Result]:
    """Measure all rows."""
    registry = MemoryRegistry()
    codec = Codec(registry, register=True)
    await codec.learn(Before)
    await codec.learn(Ordered)
    old, new = Before(**ORDER), Ordered(**ORDER)
    old_id, old_data = codec.encode(old, "Order-1", _BYTES_MAX)
    new_id, new_data = codec.encode(new, "Order-1", _BYTES_MAX)
    await codec.warm({old_id, new_id})
    writer, reader = fastavro.parse_schema(Before.avro_schema()), fastavro.parse_schema(Ordered.avro_schema())
    plain = {**ORDER, "note": ""}

    def by_hand() -> bytes:
        out = BytesIO()
        fastavro.schemaless_writer(out, reader, plain)
        return out.getvalue()

    def read_by_hand(data: bytes, written: Any, wanted: Any) -> Ordered:  # noqa: ANN401 - parsed schemas
        return Ordered.model_validate(fastavro.schemaless_reader(BytesIO(data), written, wanted))

    encode, bare, decode, hand, same, same_hand = await alternate(
        per_second(lambda: codec.encode(new, "Order-1", _BYTES_MAX)),
        per_second(by_hand),
        per_second(lambda: codec.to_model(old_id, old_data, Ordered)),
        per_second(lambda: read_by_hand(old_data, writer, reader)),
        per_second(lambda: codec.to_model(new_id, new_data, Ordered)),
        per_second(lambda: read_by_hand(new_data, reader, reader)),
    )
    results = [
        Result("encode vs fastavro", encode, "ev/s", "fastavro on the dict", bare, 0.7),
        Result("decode vs fastavro+pydantic", decode, "ev/s", "fastavro and pydantic by hand", hand, 0.5),
        Result("decode newest vs by hand", same, "ev/s", "fastavro and pydantic by hand", same_hand, 0.5),
    ]
    results += await against_rivals(encode, same, new)
    results += [await upcasting(), await lookup(codec, old_id)]
    return results


async def against_rivals(encode: float, decode: float, order: Ordered) -> list[Result]:
    """Measure a library that does the same from the same kind of model, if it is installed."""
    if not rivals.has("dataclasses_avroschema"):
        return []
    model = rivals.avroschema_order()
    theirs = model(**order.model_dump())
    data = theirs.serialize()
    serialize, deserialize = await alternate(
        per_second(theirs.serialize, CALLS // 10), per_second(lambda: model.deserialize(data), CALLS // 10)
    )
    name = "dataclasses-avroschema"
    return [
        Result(f"encode vs {name}", encode, "ev/s", f"{name} serialize", serialize, 1.0),
        Result(f"decode vs {name}", decode, "ev/s", f"{name} deserialize", deserialize, 1.0),
    ]


async def upcasting() -> Result:
    """Measure an event that goes through an upcaster against the same function by hand."""

    @upcast(Renamed, from_version=1)
    def renamed(payload: dict[str, Any]) -> dict[str, Any]:
        return {"buyer": payload["customer"], "quantity": payload["quantity"]}

    class Newest(Event, event_type="bench.Renamed"):
        """Defined last: what stored events are read as."""

        buyer: str
        quantity: int

    registry = MemoryRegistry()
    codec = Codec(registry, register=True)
    await codec.learn(Stored)
    schema_id, data = codec.encode(Stored(customer="ann", quantity=2), "Order-1", _BYTES_MAX)
    await codec.start()
    await codec.warm({schema_id})
    parsed = fastavro.parse_schema(Stored.avro_schema())

    def by_hand() -> Event:
        payload = fastavro.schemaless_reader(BytesIO(data), parsed, None)
        assert isinstance(payload, dict)
        return Newest.model_validate(renamed(payload))

    ours, hand = await alternate(
        per_second(lambda: codec.decode("bench.Renamed", schema_id, data)), per_second(by_hand)
    )
    return Result("upcast vs by hand", ours, "ev/s", "fastavro, function and pydantic", hand, None)


async def lookup(codec: Codec, schema_id: int) -> Result:
    """Measure how long it takes to see that a schema is known."""
    ids = {schema_id}
    began = time.process_time()
    for _ in range(CALLS * 10):
        await codec.warm(ids)
    took_us = (time.process_time() - began) / (CALLS * 10) * 1e6
    return Result("lookup", took_us, "µs", "1 µs", 1.0, 1.0, at_most=True)


def main() -> None:
    """Run the suite; it needs no services."""
    report("schemas", asyncio.run(measure()))
