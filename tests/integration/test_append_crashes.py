"""Clients that die, backends that are terminated, processes that meet on the same streams.

The judge keeps what was acknowledged, and compares it with what the streams hold in the end.
"""

import asyncio
import random

import asyncpg
import pytest
from support.appenders import Answers, answers_of, appender, stored
from support.models import Noted
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.reader import Reader

ROUNDS = 6


@pytest.mark.parametrize("mode", ["own", "hot"])
async def test_a_killed_client_repeats_and_nothing_is_doubled_or_lost(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", mode: str
) -> None:
    chance = random.Random(4)
    acknowledged: Answers = {}
    for _ in range(ROUNDS):
        async with appender(settings, mode, "a", seed=4) as process:
            acknowledged |= await answers_of(process, upto=chance.randint(1, 200))
            process.kill()  # in the middle of whatever it does
    async with appender(settings, mode, "a", seed=4) as process:
        last = await answers_of(process)
    assert acknowledged.items() <= last.items(), "the answer of the first time comes again"
    assert await stored(reader, connection, settings.store) == last
    assert len(set(last.values())) == len(last), "no event is stored twice"


async def test_processes_meet_on_the_same_streams_without_deadlock_or_loss(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with appender(settings, "hot", "a", 1) as one, appender(settings, "hot", "b", 2) as two:
        answers = await asyncio.gather(answers_of(one), answers_of(two))
        assert [await process.wait() for process in (one, two)] == [0, 0]
    assert not answers[0].keys() & answers[1].keys()
    assert answers[0] | answers[1] == await stored(reader, connection, settings.store)


async def test_terminated_backends_are_not_noticed_by_callers(
    settings: Settings, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Their batches are sent again: the ids tell what had happened."""
    async with appender(settings, "own", "a", 1) as process:
        first = await answers_of(process, upto=1)
        answering = asyncio.create_task(answers_of(process))
        terminated = 0
        while not answering.done():
            terminated += await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'gatelog producer' AND (state = 'active' OR random() < 0.3) "
                "AND query LIKE $1",
                f"%{settings.store}%",  # other tests have producers on the same server
            )
            await asyncio.sleep(random.uniform(0, 0.05))  # at any moment of a batch, or between two
        answers = first | await answering
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
    assert terminated
    assert len(answers) == 800
    assert answers == await stored(reader, connection, settings.store)


async def test_a_cancelled_caller_disturbs_nobody_and_leaves_no_transaction_open(
    settings: Settings, producer: Producer, reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    chance = random.Random(7)

    async def append(number: int) -> int:
        done = await producer.append(f"Note-{number % 20}", [Noted(text=str(number))], expected_version=-0)
        return done.version

    tasks = [asyncio.create_task(append(number)) for number in range(20)]
    await asyncio.gather(*tasks)
    for _ in range(20):
        appends = [
            asyncio.create_task(producer.append(f"Other-{chance.random()}", [Noted(text="x")], expected_version=0))
            for _ in range(20)
        ]
        cancelled = chance.sample(appends, 5)
        for _ in range(chance.randint(0, 5)):
            await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        for task, answer in zip(appends, await asyncio.gather(*appends, return_exceptions=True), strict=True):
            assert not isinstance(answer, Exception), "a neighbour is answered"
            assert task in cancelled or not isinstance(answer, BaseException)

    async def nothing_is_open() -> bool:
        return not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gatelog producer' "
            "AND state LIKE 'idle in transaction%'"
        )

    await until(nothing_is_open, "no connection is left in a transaction")
    assert await reader.version("Note-1") == 1
