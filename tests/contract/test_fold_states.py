"""States that do not come back from a snapshot as they were: the events win, and nothing is raised."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator
from structlog.testing import capture_logs
from support.stores import Store

from gatelog.producer import ANY
from gatelog.reader import State
from gatelog.reader.folds.fold import NotKeptError, text_of
from gatelog.reader.folds.state import fingerprint
from gatelog.schemas import Event, RecordedEvent


class Stepped(Event):
    by: int = 1


async def steps(store: Store, count: int) -> None:
    await store.producer.append("Account-1", [Stepped() for _ in range(count)], expected_version=ANY)


class Colour(StrEnum):
    RED = "red"


class Line(BaseModel):
    count: int = 0


class Marked(Line):
    mark: str = ""


class Unreadable(BaseModel):
    count: int = 0

    @field_validator("count")
    @classmethod
    def small(cls, count: int) -> int:
        if count == 0:
            raise RuntimeError("not a ValueError, which pydantic would have taken")
        return count


@dataclass
class Hidden:
    """What a state may hold that JSON, or ``==``, takes for something else; and what ``apply`` does with it."""

    name: str
    annotation: Any
    value: Callable[[], Any]
    step: Callable[[Any], Any]


def counted(value: Any) -> Any:  # noqa: ANN401 - a mapping
    value["a"] += 1
    return value


HIDDEN = [
    Hidden("a defaultdict", dict[str, int], lambda: defaultdict(int), counted),
    Hidden("a Counter", dict[str, int], Counter, counted),
    Hidden("an enum", Any, lambda: Colour.RED, lambda colour: Colour(colour.name.lower())),
    Hidden("a set", Any, set, lambda seen: seen | {len(seen)}),
    Hidden("a tuple", Any, tuple, lambda seen: (*seen, len(seen))),
    Hidden("not a number", float, lambda: math.nan, lambda number: number + 1),
    Hidden("an int among floats", float, lambda: 1, lambda number: number * 3),
    Hidden("a flag among ints", int, lambda: True, lambda flag: not flag),
    Hidden("a queue with a bound", deque[int], lambda: deque(maxlen=2), lambda queue: queue.append(1) or queue),
    Hidden(
        "a model of a subclass", Line, lambda: Marked(mark="m"), lambda line: line.model_copy(update={"mark": "n"})
    ),
    Hidden("a model that cannot be read", Any, Unreadable.model_construct, lambda line: line),
    Hidden("a typed model that cannot be read", Unreadable, Unreadable.model_construct, lambda line: line),
    Hidden("a list with itself", Any, list, lambda seen: seen.append(seen) or seen),
    Hidden("text that is none", str, lambda: "\ud800", lambda text: text),
    Hidden("an object", Any, object, lambda what: what),
]


async def test_what_would_come_back_as_something_else_is_read_from_the_events(store: Store) -> None:
    await steps(store, 3)
    for hidden in HIDDEN:
        made = holding(hidden)
        with capture_logs() as said:
            for _ in range(2):
                from_events = await store.reader.fold("Account-1", made, snapshot_every=0)
                folded = await store.reader.fold("Account-1", made, snapshot_every=1)
                assert hidden.name == "an object" or repr(folded) == repr(from_events)
                await steps(store, 1)
        assert [line["event"] for line in said if line["event"].startswith("snapshot")] == ["snapshot.refused"]


def holding(hidden: Hidden) -> type[State]:
    def apply(self: Any, event: RecordedEvent) -> None:  # noqa: ANN401 - a state made here
        self.it = hidden.step(self.it)

    fields = {"__annotations__": {"it": hidden.annotation}, "it": Field(default_factory=hidden.value)}
    name = f"Holding{uuid4().hex}"  # what is refused is said once in a process
    return type(name, (State,), {**fields, "apply": apply, "__module__": __name__})


async def test_what_is_shared_is_not_kept(store: Store) -> None:
    class Basket(State):
        lines: list[Line] = Field(default_factory=list)
        current: Line | None = None

        def apply(self, event: RecordedEvent) -> None:
            if self.current is None:
                self.current = Line()
                self.lines.append(self.current)
            self.current.count += 1

    await steps(store, 2)
    for count in (2, 3):
        basket = await store.reader.fold("Account-1", Basket, snapshot_every=1)
        assert [line.count for line in basket.lines] == [count]
        await steps(store, 1)


async def test_a_snapshot_of_an_older_class_with_the_same_fields_is_passed_over(store: Store) -> None:
    def made(factory: Callable[[], Any], step: Callable[[Any], Any]) -> type[State]:
        def apply(self: Any, event: RecordedEvent) -> None:  # noqa: ANN401 - a state made here
            step(self.seen)

        fields = {"__annotations__": {"seen": dict[str, int]}, "seen": Field(default_factory=factory)}
        return type("Seen", (State,), {**fields, "apply": apply, "__module__": __name__})

    def set_one(seen: dict[str, int]) -> None:
        seen["a"] = 1

    await steps(store, 2)
    old, new = made(dict, set_one), made(lambda: Counter({"b": 0}), lambda seen: seen.update(["b"]))
    assert fingerprint(old) == fingerprint(new)
    await store.reader.fold("Account-1", old, snapshot_every=1)
    await steps(store, 1)
    state: Any = await store.reader.fold("Account-1", new, snapshot_every=1)
    assert state.seen == {"b": 3}, "what the old one left is a dict, and its update takes no list"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"))
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
    | st.sampled_from(list(Colour))
    | st.builds(Line, count=st.integers(0, 9))
    | st.builds(Marked, mark=st.text("ab")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab") | st.integers(), inner, max_size=3)
        | st.dictionaries(st.text("ab"), st.integers(), max_size=3).map(Counter)
        | st.dictionaries(st.text("ab"), inner, max_size=3).map(lambda found: defaultdict(int, found))
        | st.sets(st.integers(), max_size=1)
        | st.lists(inner, max_size=3).map(deque)
    ),
    max_leaves=6,
)


class Anything(State):
    it: Any = None
    number: float = 0.0
    counts: dict[str, int] = Field(default_factory=dict)
    queue: deque[int] = Field(default_factory=deque)
    zone: datetime | None = None
    line: Line = Field(default_factory=Line)


@given(
    it=values,
    number=st.floats() | st.integers(),
    counts=st.builds(lambda kind, found: kind(found), st.sampled_from([dict, Counter]), st.just({"b": 1, "a": 2})),
    zone=st.none() | st.datetimes(timezones=st.just(UTC) | st.timezones()),
    line=st.builds(Line) | st.builds(Marked),
)
def test_a_state_that_is_kept_comes_back_as_it_was(**drawn: Any) -> None:  # noqa: ANN401 - drawn
    state = Anything.model_construct(**drawn)
    try:
        text = text_of(state)
    except NotKeptError:
        return
    back = Anything.model_validate_json(text)
    for name in drawn:
        here, there = getattr(state, name), getattr(back, name)
        if isinstance(here, datetime):
            month = timedelta(days=31)
            here, there = (here + month).astimezone(UTC), (there + month).astimezone(UTC)
        assert repr(there) == repr(here)


@given(st.integers(), st.text(st.characters(codec="utf-8")), st.dictionaries(st.text("abc"), st.integers()))
def test_plain_states_are_kept(number: int, text: str, counts: dict[str, int]) -> None:
    text_of(
        Anything(
            it=[number, text, None, True, {text: 0.5}],
            counts=counts,
            zone=datetime(2026, 3, 1, tzinfo=UTC),
            line=Line(count=number),
        )
    )
