"""Members of a build that is retired under them: they are refused at their first statement, nothing is in twice."""

import asyncio
import re
from collections.abc import AsyncIterator
from itertools import count
from typing import Literal

import asyncpg
import pytest
from support.projections import Connection, at_work, fill, has, keeping, positions, schema_of
from support.subscribing import consuming
from support.waiting import until

from gatelog.core.consumer_errors import ProjectionReplacedError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.producer import Producer
from gatelog.reader.subscriptions.checkpoints import PACKAGE, SQL_FILE

pytestmark = pytest.mark.usefixtures("pipeline")
Order = Literal["partition", "total"]


@pytest.fixture
async def rows(settings: Settings) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(settings.dsn)
    yield connection
    await connection.close()


async def rebuilt_under(settings: Settings, producer: Producer, rows: Connection, order: Order, members: int) -> None:
    """Rebuild a read model twice beside its members. New categories come all the time, which are claimed anew."""
    schema, new = schema_of("model", settings), count(1)
    live = [keeping("model", settings, by=f"m{number}", order=order) for number in range(members)]
    await live[0].prepare(settings)
    written = await fill(producer, 21)
    async with at_work(settings, *live):
        await has(rows, schema, written)
        for _ in range(2):
            again = keeping("model", settings, order=order)
            rebuilding = asyncio.create_task(again.rebuild(asyncio.Event(), settings))
            while not rebuilding.done():
                written += await fill(producer, 3, [f"New{next(new)}", "Note"])
                await has(rows, schema, written)
            assert await rebuilding
            written += await fill(producer, 6, [f"New{next(new)}", "Note", f"New{next(new)}"])
            await has(rows, schema, written)
    found = await positions(rows, schema)
    assert sorted(found) == list(range(1, written + 1)), "missing, or twice"
    assert order == "partition" or found == sorted(found)


@pytest.mark.parametrize(
    ("order", "members", "protocol"),
    [("partition", 1, "auto"), ("partition", 2, "classic"), ("partition", 2, "consumer"), ("total", 2, "auto")],
)
async def test_a_rebuild(
    settings: Settings, producer: Producer, rows: Connection, order: Order, members: int, protocol: str
) -> None:
    settings = settings.model_copy(update={"subscription_protocol": protocol})
    await rebuilt_under(settings, producer, rows, order, members)


async def test_members_that_do_not_ask_for_their_build_are_found(
    settings: Settings, producer: Producer, rows: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault put back: they claim new partitions in the retired group, and write into the schema that is live."""
    sql = queries(PACKAGE, SQL_FILE, settings.store)
    for name in ("is_in_state", "advance"):
        monkeypatch.setitem(sql, name, re.sub(r"state = (\$\d+)", r"\1::text <> ''", sql[name]))
    with pytest.raises(BaseException, match=r"missing, or twice|unhandled errors|not within"):
        await rebuilt_under(settings, producer, rows, "partition", 2)


@pytest.mark.parametrize(("order", "members"), [("partition", 2), ("total", 2)])
async def test_a_newer_version(
    settings: Settings, producer: Producer, rows: Connection, order: Order, members: int
) -> None:
    """The members of the older one end, and say why."""
    schema, new = schema_of("model", settings), count(1)
    older = [keeping("model", settings, by=f"m{number}", order=order) for number in range(members)]
    await older[0].prepare(settings)
    written = await fill(producer, 21)
    stop = asyncio.Event()
    running = [asyncio.create_task(each.run(stop, settings)) for each in older]
    await has(rows, schema, written)
    async with consuming(keeping("model", settings, version=2, order=order), settings):

        async def are_replaced() -> bool:
            nonlocal written
            written += await fill(producer, 3, [f"New{next(new)}", "Note"])
            await has(rows, schema, written)
            return all(task.done() for task in running)

        await until(are_replaced, "the older version has ended")
        await has(rows, schema, written)
    for ended in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(ended, ProjectionReplacedError)
    found = await positions(rows, schema)
    assert sorted(found) == list(range(1, written + 1)), "missing, or twice"
    assert order == "partition" or found == sorted(found)
