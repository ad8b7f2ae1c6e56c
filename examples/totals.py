"""What each customer has spent: a read model in Postgres that holds every order once, whatever dies meanwhile.

Start the services first (``gatelog up && gatelog init && gatelog run``), then ``python examples/totals.py``. In
production the projection runs by itself: ``gatelog projection prepare examples/totals.py:totals`` once, then
``gatelog projection run examples/totals.py:totals``, on as many machines as you like.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import asyncpg

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Projection
from gatelog.schemas import Event, RecordedEvent


class Bought(Event):
    """A customer has bought something, for so many cents."""

    customer: str
    cents: int


totals = Projection("totals", categories=["Basket"], types=[Bought], schema="totals")


@totals.set_up
async def tables(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Make the table: in the schema of the build that is about to be filled, which is first in the search path."""
    await connection.execute("CREATE TABLE IF NOT EXISTS spent (customer text PRIMARY KEY, cents bigint NOT NULL)")


@totals.batch
async def add(
    connection: "asyncpg.Connection[asyncpg.Record]",
    events: Sequence[RecordedEvent[Bought]],
) -> None:
    """Add a batch of purchases. It commits together with the checkpoint: neither is there without the other."""
    cents: Counter[str] = Counter()
    for event in events:
        cents[event.data.customer] += event.data.cents
    await connection.executemany(
        "INSERT INTO spent AS s VALUES ($1, $2) ON CONFLICT (customer) DO UPDATE SET cents = s.cents + $2",
        sorted(cents.items()),  # in one order, so that two members do not lock each other out
    )


async def main() -> None:
    """Buy a few things, and look at the totals as soon as they hold the last one."""
    await totals.prepare()
    stop = asyncio.Event()
    working = asyncio.create_task(totals.run(stop))
    async with Producer.connect() as producer, totals.watched() as watch:
        for number in range(30):
            customer = ("ann", "bob", "cat")[number % 3]
            event = Bought(customer=customer, cents=100 + number)
            bought = await producer.append(f"Basket-{customer}", [event], expected_version=ANY)
            await watch.seen(bought)
    connection = await asyncpg.connect(Settings.load().dsn)
    for row in await connection.fetch("SELECT customer, cents FROM totals.spent ORDER BY customer"):
        print(row["customer"], row["cents"])
    await connection.close()
    stop.set()
    await working


if __name__ == "__main__":
    asyncio.run(main())
