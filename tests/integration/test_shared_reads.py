"""Many reads at once share statements: each gets its own rows, whatever happens to its neighbours."""

import asyncio
import random

import asyncpg
import pytest
from support.models import Noted
from support.running import running

from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader
from gatelog.reader.stream_reads import FLIGHTS_MAX, SHARED_ROWS_MAX, StreamRead, StreamReads

STREAMS = 12


@pytest.fixture
async def lengths(settings: Settings, producer: Producer, reader: Reader) -> list[int]:
    """How long each stream is; the first half of each is in the index, the rest in the outbox."""
    lengths = [number * 3 for number in range(STREAMS)]

    async def append(half: int) -> None:
        for number, length in enumerate(lengths):
            if upto := (length // 2, length - length // 2)[half]:
                done = await producer.append(f"Note-{number}", [Noted(text="x")] * upto, expected_version=ANY)
        if half == 0:
            await reader.indexed(done.event_ids, timeout=60)

    async with running(Relay(settings), Indexer(settings)):
        await append(0)
    await append(1)
    return lengths


async def test_each_read_gets_its_own_rows(reader: Reader, lengths: list[int], chance: random.Random) -> None:
    async def read() -> None:
        number, backward = chance.randrange(1, STREAMS), chance.random() < 0.5
        low, high, limit = chance.randint(1, 30), chance.randint(1, 40), chance.choice([1, 3, 50, None])
        name = f"Note-{number}"
        found = [
            (event.stream, event.version, event.as_dict()["text"])
            async for event in reader.stream(name, from_version=low, to_version=high, limit=limit, backward=backward)
        ]
        versions = [version for version in range(1, lengths[number] + 1) if low <= version <= high]
        wanted = (versions[::-1] if backward else versions)[:limit]
        assert found == [(name, version, "x") for version in wanted]

    await asyncio.gather(*(read() for _ in range(400)))


async def test_a_read_that_is_given_up_takes_no_other_with_it(reader: Reader, lengths: list[int]) -> None:
    async def count(number: int) -> int:
        return len([event async for event in reader.stream(f"Note-{number}")])

    reads = [asyncio.create_task(count(1 + turn % (STREAMS - 1))) for turn in range(200)]
    for turn in (0, 1):  # those in flight, then those that wait
        await asyncio.sleep(0)
        for each in reads[turn * 5 : turn * 5 + 40 : 3]:
            each.cancel()
    found = await asyncio.gather(*reads, return_exceptions=True)
    answered = [(turn, answer) for turn, answer in enumerate(found) if not isinstance(answer, asyncio.CancelledError)]
    assert len(answered) >= 150
    assert all(answer == lengths[1 + turn % (STREAMS - 1)] for turn, answer in answered)
    assert await count(3) == lengths[3]


async def test_statements_are_shared_and_connections_kept(settings: Settings, lengths: list[int]) -> None:
    """Two connections do, and a connection that has died is replaced."""
    sql = queries("gatelog.reader", "read.sql", settings.store)
    async with asyncpg.create_pool(settings.dsn, min_size=1, max_size=1) as pool:
        reads = StreamReads(settings, pool, sql["stream_forward"], sql["streams_forward"])
        wanted = [StreamRead(f"Note-{1 + n % (STREAMS - 1)}", 1, 100, SHARED_ROWS_MAX) for n in range(100)]
        for _ in range(2):
            found = await asyncio.gather(*(reads.read(each) for each in wanted))
            assert [len(rows) for rows in found] == [lengths[1 + n % (STREAMS - 1)] for n in range(100)]
            assert 1 <= len(reads._idle) <= FLIGHTS_MAX
            for connection in reads._idle:
                connection.terminate()
        await reads.close()
