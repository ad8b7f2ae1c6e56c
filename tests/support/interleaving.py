"""Explores the orders in which statements of several sessions can reach Postgres. The code is the store's own.

An actor is a coroutine that works on connections of class ``Stepped``. Each of its statements waits for its turn; one
actor has the turn at a time, until its next statement, its end, or a lock that another session holds
(``pg_blocking_pids``). So a run is a list of choices, and can be repeated.

``every_order`` tries all orders with up to so many preemptions: changes of the turn away from an actor that could go
on and does not rest. Few of them show most faults (Musuvathi and Qadeer, "Iterative context bounding for systematic
testing of multithreaded programs", PLDI 2007). ``random_orders`` is for what is too much for that. Postgres' own
isolation tester explores orders that are written by hand.
"""
# ruff: noqa: ANN401 - signatures of asyncpg's methods

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import asyncpg

if TYPE_CHECKING:  # generic in the type stubs only
    _Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

LOOK_S: Final = 0.002  # after which a statement that has not answered may wait for a lock
STUCK_S: Final = 30.0
STEPS_MAX: Final = 500
PREEMPTIONS: Final = (0.0, 0.05, 0.2)  # how often, in a run

Work: TypeAlias = Callable[[], Awaitable[None]]

_BLOCKED: Final = "SELECT pid FROM unnest($1::int[]) AS pid WHERE cardinality(pg_blocking_pids(pid)) > 0"


class _State(Enum):
    RUNNING = auto()
    READY = auto()
    BLOCKED = auto()
    ENDED = auto()


class _Actor:
    def __init__(self, name: str, told: asyncio.Event) -> None:
        self.name = name
        self.state = _State.RUNNING
        self.pid = 0
        self.next = ""  # what it does when it has the turn
        self.rests = False  # somebody else may go on before that as well
        self._told = told
        self._turn = asyncio.Event()

    async def wait(self, pid: int, text: str) -> None:
        text = " ".join(text.split())[:70]
        self.rests = self.rests or text == self.next  # it polls
        self.pid, self.next, self.state = pid, text, _State.READY
        self._told.set()
        await self._turn.wait()
        self._turn.clear()
        self.rests = False

    def go(self) -> None:
        self.state = _State.RUNNING
        self._turn.set()

    async def run(self, work: Work) -> None:
        _acting.set(self)
        try:
            await work()
        finally:
            self.state = _State.ENDED
            self._told.set()


_acting: ContextVar[_Actor | None] = ContextVar("acting", default=None)


async def step(what: str, pid: int = 0) -> None:
    """Wait for the turn, before something that others can see. Outside of a run this does nothing."""
    if (actor := _acting.get()) is not None:
        await actor.wait(pid, what)


def rest() -> None:
    """Say that there is a pause before the next step, as between two polls: to give others the turn costs nothing."""
    if (actor := _acting.get()) is not None:
        actor.rests = True


class Stepped(_Connection):
    """A connection of which every statement is a step."""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        """As asyncpg's."""
        await step(query, self.get_server_pid())
        return await super().execute(query, *args, timeout=timeout)

    async def fetch(self, query: str, *args: object, **more: Any) -> Any:
        """As asyncpg's."""
        await step(query, self.get_server_pid())
        return await super().fetch(query, *args, **more)

    async def fetchrow(self, query: str, *args: object, **more: Any) -> Any:
        """As asyncpg's."""
        await step(query, self.get_server_pid())
        return await super().fetchrow(query, *args, **more)

    async def fetchval(self, query: str, *args: object, **more: Any) -> Any:
        """As asyncpg's."""
        await step(query, self.get_server_pid())
        return await super().fetchval(query, *args, **more)

    async def copy_records_to_table(self, table_name: str, **more: Any) -> str:
        """As asyncpg's."""
        await step(f"COPY {table_name}", self.get_server_pid())
        return await super().copy_records_to_table(table_name, **more)


@dataclass(frozen=True, slots=True)
class Choice:
    """One step of a run: who could have made it, who did, who had made the one before, and what it was."""

    ready: tuple[str, ...]
    taken: str
    before: str | None  # None: it is at its end, blocked, or rests
    what: str

    def preempts(self, name: str) -> bool:
        """Say whether the turn would be taken from an actor that could go on."""
        return self.before is not None and name != self.before


Chooser: TypeAlias = Callable[[Sequence[str], str | None], str]


class Scenario(Protocol):
    """What is explored: actors on a state that is the same at the beginning of each run."""

    async def begin(self) -> Mapping[str, Work]:
        """Set the state back, and return the actors by name."""
        ...

    async def judge(self) -> None:
        """Raise AssertionError if the state after a run breaks a rule."""
        ...


@dataclass(slots=True)
class _Run:
    control: _Connection
    choices: list[Choice] = field(default_factory=list)

    async def play(self, works: Mapping[str, Work], choose: Chooser) -> None:
        """Give turns until all actors have ended; raise the first error of one of them."""
        told = asyncio.Event()
        actors = {name: _Actor(name, told) for name in works}
        tasks = [asyncio.create_task(actors[name].run(work), name=name) for name, work in works.items()]
        try:
            last: str | None = None
            while True:
                await self._settle(list(actors.values()), told)
                ready = tuple(name for name, actor in actors.items() if actor.state is _State.READY)
                before = last if last in ready and not actors[last].rests else None
                if not ready:
                    if all(actor.state is _State.ENDED for actor in actors.values()):
                        break
                    continue  # they wait for each other: Postgres will see that, and end one of them
                taken = choose(ready, before)
                self.choices.append(Choice(ready, taken, before, actors[taken].next))
                assert len(self.choices) < STEPS_MAX, "the actors never end"
                last = taken
                actors[taken].go()
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _settle(self, actors: Sequence[_Actor], told: asyncio.Event) -> None:
        """Wait until each actor is ready, blocked or at its end."""
        deadline = asyncio.get_running_loop().time() + STUCK_S
        while busy := [actor for actor in actors if actor.state in {_State.RUNNING, _State.BLOCKED}]:
            told.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    while any(actor.state is _State.RUNNING for actor in busy):
                        await told.wait()
                        told.clear()
            except TimeoutError:
                pass
            busy = [actor for actor in busy if actor.state in {_State.RUNNING, _State.BLOCKED}]
            if not busy:
                return
            waiting = {row["pid"] for row in await self.control.fetch(_BLOCKED, [actor.pid for actor in busy])}
            if all(actor.pid in waiting for actor in busy):
                for actor in busy:
                    if actor.state is _State.RUNNING:
                        actor.state = _State.BLOCKED
                return
            for actor in busy:  # who was blocked and is not any more is about to answer
                if actor.state is _State.BLOCKED and actor.pid not in waiting:
                    actor.state = _State.RUNNING
            assert asyncio.get_running_loop().time() < deadline, f"stuck: {[actor.next for actor in busy]}"


def told(choices: Sequence[Choice]) -> str:
    """Return a run as text, a step a line."""
    return "\n".join(f"{number:3} {choice.taken:<12} {choice.what}" for number, choice in enumerate(choices, 1))


async def _once(scenario: Scenario, control: _Connection, choose: Chooser) -> list[Choice]:
    run = _Run(control)
    works = await scenario.begin()
    try:
        await run.play(works, choose)
        await scenario.judge()
    except (Exception, asyncio.CancelledError) as error:
        error.add_note(f"after these steps:\n{told(run.choices)}")
        raise
    return run.choices


async def every_order(scenario: Scenario, control: _Connection, preemptions_max: int) -> int:
    """Try every order of steps with up to so many preemptions; return how many there were.

    ``control``: a connection that is nobody's, to ask who is blocked.
    """
    todo: list[tuple[str, ...]] = [()]
    runs = 0
    while todo:
        prefix = todo.pop()
        choices = await _once(scenario, control, _following(prefix))
        runs += 1
        spent = 0
        for at, choice in enumerate(choices):
            if at >= len(prefix):
                todo += [
                    (*(each.taken for each in choices[:at]), other)
                    for other in choice.ready
                    if other != choice.taken and spent + choice.preempts(other) <= preemptions_max
                ]
            spent += choice.preempts(choice.taken)
    return runs


def _following(prefix: Sequence[str]) -> Chooser:
    """Repeat a beginning, then let each go on as long as it can."""
    left = list(reversed(prefix))

    def choose(ready: Sequence[str], before: str | None) -> str:
        if left and (wanted := left.pop()) in ready:
            return wanted
        return before or ready[0]

    return choose


async def random_orders(scenario: Scenario, control: _Connection, chance: random.Random, runs: int) -> None:
    """Try random orders. At a rest everybody has the same chance; at other steps, others have the turn rarely."""

    preemption = 0.0

    def choose(ready: Sequence[str], before: str | None) -> str:
        others = [name for name in ready if name != before]
        if before is not None and not (others and chance.random() < preemption):
            return before
        return chance.choice(others or ready)

    for _ in range(runs):
        preemption = chance.choice(PREEMPTIONS)
        await _once(scenario, control, choose)
