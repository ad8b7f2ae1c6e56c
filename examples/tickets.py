"""A hall with twelve seats: decide on a stream, append what was decided, decide again after a conflict.

Start the services first (``gatelog up && gatelog init && gatelog run``), then ``python examples/tickets.py``.
"""

import asyncio

from gatelog.core.errors import StreamNotFoundError
from gatelog.producer import Producer, retry_on_conflict
from gatelog.reader import Reader
from gatelog.schemas import Event

SEATS = 12


class SeatSold(Event):
    """A seat of a hall has a holder."""

    seat: int
    holder: str


class Hall:
    """What a hall's events say about it."""

    def __init__(self) -> None:
        self.version = 0
        self.taken: set[int] = set()

    @classmethod
    async def load(cls, reader: Reader, stream: str) -> "Hall":
        """Replay the stream; a hall without events is empty."""
        hall = cls()
        try:
            async for event in reader.stream(stream):
                hall.version = event.version
                if isinstance(event.data, SeatSold):
                    hall.taken.add(event.data.seat)
        except StreamNotFoundError:
            pass
        return hall

    def free_seat(self) -> int | None:
        """Return the first free seat."""
        return next((seat for seat in range(1, SEATS + 1) if seat not in self.taken), None)


async def sell(producer: Producer, reader: Reader, stream: str, holder: str) -> int | None:
    """Sell the first free seat of a hall and return it, or None when it is sold out."""

    async def decide() -> int | None:
        hall = await Hall.load(reader, stream)
        if (seat := hall.free_seat()) is None:
            return None
        await producer.append(stream, [SeatSold(seat=seat, holder=holder)], expected_version=hall.version)
        return seat

    return await retry_on_conflict(decide, attempts_max=50)


async def main() -> None:
    """Let twenty people want a seat at the same moment: twelve get one each, and no seat is sold twice."""
    async with Producer.connect() as producer, Reader.connect() as reader:
        people = [f"person {number}" for number in range(1, 21)]
        seats = await asyncio.gather(*(sell(producer, reader, "Hall-1", person) for person in people))
        for person, seat in zip(people, seats, strict=True):
            print(person, "has seat", seat or "none: sold out")


if __name__ == "__main__":
    asyncio.run(main())
