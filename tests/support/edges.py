"""Values at the edges of every field of an append and of a load, and what reads give back of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st
from pydantic import AwareDatetime, Field, NaiveDatetime

from gatelog.schemas import Event, NewEvent
from gatelog.schemas.avro_types import Duration, Float32, Int32, TimestampMillis

_EAST, _WEST = timezone(timedelta(hours=23, minutes=59)), timezone(-timedelta(hours=23, minutes=59))
_TICK: Final = timedelta(microseconds=1)

_FIRST, _LAST = datetime.min, datetime.max  # noqa: DTZ901 - zones come with them

MOMENTS: Final = [
    *(each.replace(tzinfo=zone) for each in (_FIRST, _LAST) for zone in (UTC, _EAST, _WEST)),
    *(each.replace(tzinfo=UTC) for each in (_FIRST + _TICK, _LAST - _TICK)),
    *(datetime(1, 1, day, tzinfo=zone) for day in (1, 2, 3) for zone in (UTC, _EAST, _WEST)),
    *(datetime(9999, 12, day, 23, 59, 59, 999_999, zone) for day in (29, 30, 31) for zone in (UTC, _EAST, _WEST)),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC) - _TICK,
    datetime(2000, 1, 1, tzinfo=UTC) - _TICK,
    datetime(1582, 10, 15, tzinfo=UTC),
    datetime(1900, 2, 28, 23, 59, 59, 999_999, timezone(timedelta(seconds=1, microseconds=1))),
]
UUIDS: Final = [UUID(int=0), UUID(int=2**128 - 1), UUID(int=1)]
TRACES: Final = [
    "",
    "x",
    " ",
    "~" * 512,
    "~" * 513,
    "a\0b",
    "a\nb",
    "é",
    "\ud800",
    "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
]
_DEEP: Final = 253


def _nested(depth: int) -> Any:  # noqa: ANN401 - JSON
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


METADATA: Final[list[Mapping[str, Any]]] = [
    {},
    {"": ""},
    {"\0": 1},
    {"a": "\0"},
    {"a": "\\u0000"},
    {"\ud800": 1},
    {"a": "\udfff"},
    {"a": math.nan},
    {"a": [-math.inf]},
    {"a": 2**63 - 1, "b": -(2**63)},
    {"a": 2**63, "b": 2**64 - 1},
    {"a": 2**64},
    {"a": -(2**63) - 1},
    {"a": 1.7976931348623157e308, "b": 5e-324, "c": -0.0},
    {"k" * 60_000: None},
    {"k": "\u2028\u202e\uffff\U0010ffff"},
    {"k": "x" * 65_536},
    {"k": _nested(_DEEP)},
    {"k": _nested(2_000)},
    {"k": datetime(2026, 1, 1, tzinfo=UTC)},
    {"k": {"ce_position": "1", "null": None, "true": True}},
]
STREAMS: Final = [
    "C-" + "x" * 253,
    "C-" + "x" * 254,
    "c" * 72 + "-k",
    "c" * 73 + "-k",
    "\U0010ffff" * 18 + "-k",
    "é" * 36 + "-" + "é" * 91,
    "C-\ud800",
    "C-\0",
    "C-\n",
    "C-\x7f",
    "C-\u2028",
    "C-\u200b\u202e\ufeff",
    "C- ",
    " -k",
    "C--",
    "-k",
    "C-",
    "C",
    "",
    "C.%_\\'\"/-k",
    "\uff21\uff22-\ufb03",
    "A\u030a-A\u030a",
    "\u00c5-\u00c5",
    "__consumer_offsets-1",
    "..-.",
]


class Nested(Event):
    """As deep as it is made."""

    below: tuple["Nested", ...] = ()
    named: dict[str, "Nested"] = Field(default_factory=dict)
    one: "Nested | None" = None


class Whole(Event):
    """A field of every type."""

    text: str = ""
    flag: bool = False
    small: Int32 = 0
    whole: int = 0
    number: float = 0.0
    single: Float32 = 0.0
    moment: AwareDatetime | None = None
    moments: tuple[AwareDatetime, ...] = ()
    either: AwareDatetime | str = ""
    millis: TimestampMillis | None = None
    local: NaiveDatetime | None = None
    day: date | None = None
    clock: time | None = None
    amount: Decimal | None = Field(None, max_digits=12, decimal_places=2)
    raw: bytes = b""
    other: UUID | None = None
    texts: list[str] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict)
    length: Duration | None = None
    nested: Nested | None = None


class Deeper(Event):
    """Takes three levels of JSON for each of its own."""

    below: tuple[tuple["Deeper", ...], ...] = ()


class Plain(Event):
    """Without anything optional: what fastavro takes as it is."""

    at: AwareDatetime
    clock: time


def deeper(depth: int) -> Deeper:
    """Return a value with so many values of its own type within each other."""
    made = Deeper()
    for _ in range(depth):
        made = Deeper(below=((made,),))
    return made


def nested(depth: int, kind: str = "below") -> Nested:
    """Return a value with so many values of its own type within each other."""
    made = Nested()
    for _ in range(depth):
        made = {"below": Nested(below=(made,)), "named": Nested(named={"": made}), "one": Nested(one=made)}[kind]
    return made


PAYLOADS: Final[list[Event]] = [
    Whole(),
    *(Whole(text=text) for text in ("\0", "a\0b", "\\u0000", "\uffff\U0010ffff", "x" * (1024 * 1024 - 200))),
    Whole.model_construct(**{**Whole().__dict__, "text": "\ud800"}),
    Whole(texts=["x" * (1024 * 1024)]),
    *(Whole(whole=whole) for whole in (2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**53 + 1)),
    *(Whole(small=small) for small in (2**31 - 1, -(2**31))),
    *(Whole(number=number) for number in (math.nan, math.inf, -math.inf, 5e-324, -0.0, 1.7976931348623157e308)),
    *(Whole(single=number) for number in (math.nan, 1e-45)),
    *(Whole(moment=moment) for moment in MOMENTS),
    *(Whole(moments=(moment,)) for moment in MOMENTS[:6]),
    *(Whole(either=moment) for moment in MOMENTS[:6]),
    *(Plain(at=moment, clock=time.max) for moment in MOMENTS[:6]),
    *(Whole(millis=m.replace(microsecond=0)) for m in MOMENTS[:6]),
    *(Whole(local=moment) for moment in (_FIRST, _LAST, datetime(1970, 1, 1) - _TICK)),  # noqa: DTZ001 - local
    *(Whole(day=day) for day in (date.min, date.max)),
    *(Whole(clock=clock) for clock in (time.min, time.max, time(12, tzinfo=_EAST), time(12, tzinfo=UTC))),
    Plain(at=datetime(2026, 1, 1, tzinfo=UTC), clock=time(12, tzinfo=_EAST)),
    *(Whole(amount=Decimal(amount)) for amount in ("9999999999.99", "-9999999999.99", "-0.00", "0.1", "1E+3")),
    *(Whole(raw=raw) for raw in (b"", b"\0", b"\xff" * (1024 * 1024 - 200))),
    *(Whole(other=other) for other in UUIDS),
    Whole(counts={"": 0, "\0": -1, "k" * 300: 1}),
    Whole(length=Duration(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    *(deeper(depth) for depth in (1, 80, 84, 85, 100)),
    *(Whole(nested=nested(depth, kind)) for depth in (1, 99, 100, 128) for kind in ("below", "named", "one")),
]


def same(one: object, other: object) -> bool:
    """Compare values; NaN is itself, and so is minus zero."""
    if isinstance(one, float) and isinstance(other, float):
        return repr(one) == repr(other)
    if isinstance(one, Event):
        return type(one) is type(other) and same(one.__dict__, other.__dict__)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@dataclass(frozen=True)
class Given:
    """What one event is given, to an append, or, with ``recorded_at``, to a load."""

    stream: str
    event: NewEvent
    recorded_at: datetime | None = None


_PAYLOADS: Final = (
    st.builds(Whole, text=st.text(), number=st.floats(), whole=st.integers(-(2**63), 2**63 - 1), raw=st.binary())
    | st.builds(Plain, at=st.datetimes(timezones=st.timezones()), clock=st.times())
    | st.sampled_from(PAYLOADS)
)
_KEYS: Final = st.text(max_size=20)
_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def _events(**fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[NewEvent]:
    fields = {
        "data": _PAYLOADS,
        "id": st.uuids(),
        "correlation_id": st.none() | st.uuids() | st.sampled_from(UUIDS),
        "causation_id": st.none() | st.uuids() | st.sampled_from(UUIDS),
        "metadata": st.none() | st.dictionaries(_KEYS, _JSON, max_size=3) | st.sampled_from(METADATA),
        "traceparent": st.none() | st.text(max_size=60) | st.sampled_from(TRACES),
    }
    return st.builds(NewEvent, **{**fields, **fixed})


ANYTHING: Final = st.builds(
    Given,
    stream=st.text(min_size=1, max_size=80).map("C-{}".format) | st.sampled_from(STREAMS),
    event=_events(),
    recorded_at=st.none() | st.datetimes(timezones=st.none() | st.timezones()) | st.sampled_from(MOMENTS),
)


def each_edge() -> list[Given]:
    """Every boundary value once, with nothing unusual beside it."""
    note = Whole(text="x")
    return [
        *(Given(stream, NewEvent(note)) for stream in STREAMS),
        *(Given("C-1", NewEvent(payload)) for payload in PAYLOADS),
        *(Given("C-2", NewEvent(note, id=number)) for number in UUIDS),
        *(Given("C-3", NewEvent(note, correlation_id=number, causation_id=number)) for number in UUIDS),
        *(Given("C-4", NewEvent(note, metadata=metadata)) for metadata in METADATA),
        *(Given("C-5", NewEvent(note, traceparent=trace)) for trace in TRACES),
        *(Given("C-6", NewEvent(note), moment) for moment in MOMENTS),
    ]
