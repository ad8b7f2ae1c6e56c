"""In whatever order appends, relays, indexers and rotation act: each event is everywhere, once, in order."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from uuid import uuid4

import pytest
from support.interleaved import World, world
from support.interleaving import Work, every_order, random_orders

from gatelog.core.identity import Identified
from gatelog.producer import ANY, NO_STREAM

NOTE, MEMO = "Note-1", "Note-2"


class Orders:
    """A scenario: what acts is made anew for each run."""

    def __init__(self, world: World, actors: Callable[[World], Mapping[str, Work]], leads: str = "relay") -> None:
        self._world = world
        self._actors = actors
        self._leads = leads

    async def begin(self) -> Mapping[str, Work]:
        world = self._world
        await world.reset()
        ticks = await world.lead(self._leads)
        return {**self._actors(world), self._leads: lambda: world.publish(self._leads, ticks, 2)}

    async def judge(self) -> None:
        await self._world.judge()


@pytest.fixture
def small(settings: Identified) -> Identified:
    """Everything as small as it gets: ticks of one event, segments of one."""
    return settings.model_copy(
        update={"outbox_segment_events": 1, "tick_events_max": 1, "outbox_snapshot_age_max_s": 0.0}
    )


@pytest.fixture
async def explored(small: Identified) -> AsyncIterator[World]:
    async with world(small, "writer", "other", "loader", "reader", "relay 2", "keeper 2", "indexer 2") as made:
        yield made


def rotation(world: World) -> Mapping[str, Work]:
    """An append in a caller's transaction, while the relay looks and the segments change places."""
    return {
        "writer": lambda: world.append_within("writer", (NOTE, 2, ANY)),
        "keeper": lambda: world.rotate("keeper", 3),
    }


def rivals(world: World) -> Mapping[str, Work]:
    """The same events by two programs, while the segments change places."""
    ids = [uuid4(), uuid4()]
    return {
        "writer": lambda: world.append("writer", (NOTE, 2, NO_STREAM), ids=ids),
        "other": lambda: world.append("other", (NOTE, 2, NO_STREAM), ids=ids),
        "keeper": lambda: world.rotate("keeper", 2),
    }


def take_over(world: World) -> Mapping[str, Work]:
    """A second relay takes over while the first one still believes to lead."""
    return {
        "writer": lambda: world.append("writer", (NOTE, 2, ANY)),
        "relay 2": lambda: world.relay("relay 2", 2),
    }


@pytest.mark.parametrize("actors", [rotation, rivals, take_over])
async def test_every_order(explored: World, actors: Callable[[World], Mapping[str, Work]], long: bool) -> None:
    """With the turn given away at rests only; in the long run, at one other step, too."""
    print(await every_order(Orders(explored, actors), explored.control, 1 if long else 0), "orders")


async def test_random_orders_of_everything(explored: World, chance: random.Random, long: bool) -> None:
    """Three or four at a time, drawn from all that may happen to a store."""

    def some(world: World) -> Mapping[str, Work]:
        ids = [uuid4(), uuid4()]
        everything: dict[str, list[Work]] = {
            "writer": [
                lambda: world.append_within("writer", (NOTE, 2, ANY)),
                lambda: world.append_within("writer", (MEMO, 1, ANY), (NOTE, 1, ANY)),
                lambda: world.append("writer", (NOTE, 2, NO_STREAM), ids=ids),
            ],
            "other": [
                lambda: world.append("other", (NOTE, 1, ANY)),
                lambda: world.append("other", (NOTE, 2, NO_STREAM), ids=ids),
                lambda: world.append("other", (NOTE, 1, ANY), (MEMO, 2, ANY)),
            ],
            "loader": [lambda: world.load("loader", MEMO, 2)],
            "reader": [lambda: world.read("reader", NOTE, 2)],
            "keeper": [lambda: world.rotate("keeper", 4)],
            "keeper 2": [lambda: world.rotate("keeper 2", 3)],
            "indexer": [lambda: world.index("indexer", 2, 1)],
            "indexer 2": [lambda: world.index("indexer 2", 2)],
            "relay 2": [lambda: world.relay("relay 2", 2)],
        }
        names = {"writer", *chance.sample(list(everything), chance.randint(2, 3))}
        return {name: chance.choice(everything[name]) for name in sorted(names)}

    await random_orders(Orders(explored, some), explored.control, chance, 5_000 if long else 150)


async def test_the_explorer_finds_a_rotation_that_compares_transaction_ids(explored: World) -> None:
    """The fault that it was built for, put back: a relay's look at the outbox with a later id sees less."""
    store, control = explored.settings.store, explored.control
    function = await control.fetchval("SELECT pg_get_functiondef($1::regproc)", f"{store}.rotate_outbox")
    asked = "pg_visible_in_snapshot(state.cut_xid, relay.done_snapshot)"
    assert asked in function
    await control.execute(function.replace(asked, "relay.done_xid > state.cut_xid"))
    with pytest.raises(AssertionError, match="lost: Counter"):
        await every_order(Orders(explored, rotation), control, 0)
