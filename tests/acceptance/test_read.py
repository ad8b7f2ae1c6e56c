"""``gatelog read`` from outside: streams, queries of the log, and what it refuses."""

import json
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field
from support.processes import environment, gatelog

from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader
from gatelog.schemas import Event, NewEvent


class Address(BaseModel):
    city: str


class Ordered(Event):
    customer: str
    total: Decimal = Field(max_digits=12, decimal_places=2)
    address: Address


class Shipped(Event):
    parcels: int


async def test_streams_and_queries(
    settings: Settings, producer: Producer, reader: Reader, pipeline: None, tmp_path: Path
) -> None:
    story, env = uuid4(), environment(settings)
    for number in range(1, 4):
        address = Address(city="Ulm" if number == 2 else "Bonn")
        order = Ordered(customer="ann", total=Decimal(number * 5), address=address)
        events = [NewEvent(order, correlation_id=story), NewEvent(Shipped(parcels=number))]
        done = await producer.append(f"Order-{number}", events, expected_version=0)
    await reader.indexed(done.event_ids)

    def read(*arguments: str) -> list[tuple[str, int]]:
        found = gatelog(["read", *arguments, "--json"], env, tmp_path)
        assert found.returncode == 0, found.stderr
        documents = [json.loads(line) for line in found.stdout.splitlines()]
        return [(document["stream"], document["version"]) for document in documents]

    assert read("Order-2") == [("Order-2", 1), ("Order-2", 2)]
    assert read("Order-2", "--last") == [("Order-2", 2)]
    assert read("--category", "Order", "--type", "Shipped", "--since", "2h", "--where", "parcels>1") == [
        ("Order-2", 2),
        ("Order-3", 2),
    ]
    filters = ["--where", "customer=ann", "--where", "total>=10", "--where", "address.city=Ulm", "--type", "Ordered"]
    assert read(*filters) == [("Order-2", 1)]
    assert read("--correlation", str(story), "--backward", "-n", "2") == [("Order-3", 1), ("Order-2", 1)]
    assert read("--until", "2026-01-01") == []
    assert read("--last") == [("Order-3", 2)]
    assert read("--after", "4", "--type", "Ordered") == [("Order-3", 1)]
    for option, shown in (("--explain", "cost="), ("--analyze", "actual time=")):
        plan = gatelog(["read", *filters, option], env, tmp_path).stdout
        assert "events" in plan
        assert shown in plan


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["Order-1", "--type", "T"], "Stream 'Order-1' has no filters"),
        (["Order-1", "--explain"], "Stream 'Order-1' has no filters"),
        (["--from", "1"], "--from and --to are versions"),
        (["--since", "yesterday"], "--since 'yesterday': say a time"),
        (["--since", "999999d"], "--since '999999d': say a time"),
        (["--where", "customer"], "--where 'customer': say a field"),
        (["--where", "customer>true"], "a bool has no order"),
        (["--type", "no type"], "not a legal Avro name"),
    ],
)
def test_what_is_refused(settings: Settings, tmp_path: Path, arguments: list[str], says: str) -> None:
    refused = gatelog(["read", *arguments], environment(settings), tmp_path)
    assert (refused.returncode in (2, 11), says in refused.stderr) == (True, True), refused.stderr
    assert refused.stderr.count("\n") == 1
