"""The state machines of subscriptions, each against a plain model: offsets, lanes, failures, what is parked."""

import random
from collections import defaultdict
from datetime import datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelog.core.errors import InvalidInputError
from gatelog.core.identity import Identified
from gatelog.reader import Failures, Park, Projection, Retry, Skip, Start, Stop, Subscription, Transform
from gatelog.reader.subscriptions.failures import Done, Later, Parked, Skipped, Stopped, judge
from gatelog.reader.subscriptions.lanes import Lanes
from gatelog.reader.subscriptions.parked import Entry, ParkedState, ParkedView, check_length, parked_topic_of
from gatelog.reader.subscriptions.window import Window


@given(st.lists(st.tuples(st.lists(st.booleans(), max_size=6), st.integers(0, 3)), max_size=8), st.randoms())
def test_only_what_is_contiguous_is_committable(batches: list[tuple[list[bool], int]], chance: random.Random) -> None:
    """A batch is a run of offsets, of which some are wanted; they are done in any order, between batches too."""
    window, read_upto = Window(100), 100
    unfinished: list[int] = []
    taken = 0
    for wanted, gap in batches:
        offsets = [read_upto + i for i, is_wanted in enumerate(wanted) if is_wanted]
        read_upto += len(wanted) + gap  # markers, or records of other types
        window.take(offsets, read_upto)
        unfinished += offsets
        taken += len(offsets)
        for _ in range(chance.randint(0, len(unfinished))):
            window.finish(unfinished.pop(chance.randrange(len(unfinished))))
            assert window.committable == min(unfinished, default=read_upto)
    assert window.committable == min(unfinished, default=read_upto)
    assert window.unfinished == len(unfinished)
    assert len(unfinished) <= window.uncommittable <= taken


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 6), st.randoms())
def test_lanes_keep_order_within_a_key_and_lose_nothing(keys: list[int], workers: int, chance: random.Random) -> None:
    lanes: Lanes[int, int] = Lanes()
    waiting = list(enumerate(keys))
    busy: dict[int, int] = {}
    resting: list[int] = []
    done: dict[int, list[int]] = defaultdict(list)
    while waiting or busy or resting or lanes.ready:
        step = chance.choice(["put", "take", "finish", "rest", "again"])
        if step == "put" and waiting:
            item, key = waiting.pop(0)
            lanes.put(key, item)
        elif step == "take" and len(busy) < workers and (found := lanes.take()) is not None:
            key, item = found
            assert key not in busy, "one at a time within a key"
            assert key not in resting
            busy[key] = item
        elif step == "finish" and busy:
            key = chance.choice(list(busy))
            done[key].append(busy.pop(key))
            lanes.finish(key)
        elif step == "rest" and busy:
            key = chance.choice(list(busy))
            del busy[key]
            resting.append(key)
        elif step == "again" and resting:
            lanes.again(resting.pop(chance.randrange(len(resting))))
    assert lanes.count == 0
    assert done == {key: [i for i, k in enumerate(keys) if k == key] for key in set(keys)}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30), st.integers(0, 4), st.randoms())
def test_dropped_items_are_gone_and_the_rest_goes_on(
    items: list[tuple[int, bool]], takes: int, chance: random.Random
) -> None:
    """Some items are of a partition that is revoked; some keys are taken, or rest after a failure, at that moment."""
    lanes: Lanes[int, tuple[int, bool]] = Lanes()
    for number, (key, is_revoked) in enumerate(items):
        lanes.put(key, (number, is_revoked))
    taken: dict[int, tuple[int, bool]] = {}
    resting: dict[int, tuple[int, bool]] = {}
    for _ in range(takes):
        if (found := lanes.take()) is not None:
            (taken if chance.random() < 0.5 else resting)[found[0]] = found[1]
    dropped = lanes.drop(lambda item: item[1], taken.__contains__)
    expected_drop = {(n, r) for n, (_, r) in enumerate(items) if r} - set(taken.values())
    assert set(dropped) == expected_drop
    assert len(dropped) == len(expected_drop)
    for key, item in resting.items():
        if item not in expected_drop:
            lanes.again(key)  # it still rests: its timer still runs
    for key in taken:
        lanes.finish(key)
    left: list[tuple[int, bool]] = []
    while (found := lanes.take()) is not None:
        left.append(found[1])
        lanes.finish(found[0])
    assert sorted(left) == sorted(
        (n, r) for n, (_, r) in enumerate(items) if (n, r) not in expected_drop and (n, r) not in taken.values()
    )
    assert lanes.count == 0


def test_a_failure_is_tried_again_then_parked_skipped_or_stops() -> None:
    failures = Failures(attempts_max=3, first_delay_s=1.0, delay_max_s=3.0)
    error = ZeroDivisionError("by zero")

    def whole() -> float:
        return 1.0

    assert judge(error, 1, failures, whole) == Later(1.0, "ZeroDivisionError: by zero")
    assert judge(error, 2, failures, whole) == Later(2.0, "ZeroDivisionError: by zero")
    assert judge(error, 3, failures, whole) == Parked("ZeroDivisionError: by zero")
    assert judge(error, 3, Failures(attempts_max=3, then="skip"), whole) == Skipped("ZeroDivisionError: by zero")
    assert judge(error, 3, Failures(attempts_max=3, then="stop"), whole) == Stopped(
        False, error, "ZeroDivisionError: by zero"
    )
    assert judge(None, 1, failures, whole) == judge("a value of its own", 1, failures, whole) == Done()
    assert judge(Retry("busy", after_s=7.0), 1, failures, whole) == Later(7.0, "busy")
    assert judge(Retry("busy"), 3, failures, whole) == Parked("busy")
    assert judge(Park("no such customer"), 1, failures, whole) == Parked("no such customer")
    assert judge(Skip("old"), 1, failures, whole) == Skipped("old")
    assert judge(Stop(), 1, failures, whole) == Stopped(True, None, "the handler asked for it")
    assert judge(Stop(handled=False), 1, failures, whole) == Stopped(False, None, "the handler asked for it")


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_delays_grow_and_are_bounded(attempts: int, chance: float) -> None:
    failures = Failures(first_delay_s=0.1, delay_max_s=20.0)
    delay = failures.delay_s(attempts, lambda: chance)
    whole = min(20.0, 0.1 * 2.0 ** min(attempts - 1, 100))
    assert whole / 2 <= delay <= whole


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InvalidInputError):
        Failures(attempts_max=0)
    with pytest.raises(InvalidInputError):
        Failures(first_delay_s=2.0, delay_max_s=1.0)
    with pytest.raises(InvalidInputError):
        Start.after(-1)


def entry(number: int, stream: int, state: ParkedState, offset: int) -> Entry:
    return Entry(str(number), f"S-{stream}", number, number, ("t", 0), number, state, number % 4 == 0, offset)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([*ParkedState, None])), max_size=60),
    st.booleans(),
    st.randoms(),
)
def test_the_newest_word_on_an_event_counts(
    words: list[tuple[int, ParkedState | None]], hold: bool, chance: random.Random
) -> None:
    """Words come in order from the topic, and some of them early, from our own writes."""
    view = ParkedView()
    told = [
        (str(n), offset, None if state is None else entry(n, n % 3, state, offset))
        for offset, (n, state) in enumerate(words)
    ]
    early = [word for word in told if chance.random() < 0.3]
    for word in (*early, *told):
        view.apply(*word)
    newest = {event_id: each for event_id, _, each in told}
    parked = {event_id: each for event_id, each in newest.items() if each is not None}
    assert {each.event_id: each for each in view} == parked
    assert all(view.knows(event_id, 0) for event_id in newest)
    settled_at = {event_id: offset for event_id, offset, each in told if each is None}
    for event_id in newest.keys() - parked.keys():
        assert view.knows(event_id, settled_at[event_id])
        assert not view.knows(event_id, settled_at[event_id] + 1), "it was said before the group was set back"
    for stream in {f"S-{n}" for n in range(3)}:
        own = sorted((each for each in parked.values() if each.stream == stream), key=lambda each: each.version)
        for version in range(11):
            assert view.is_held(stream, version) == any(each.version < version for each in own)
        stays = [each.state is ParkedState.PARKED and not each.is_follower for each in own]
        due = [each for each, stay in zip(own, stays, strict=True) if not stay]
        if hold:  # up to the first that failed and was not asked for
            due = own[: stays.index(True) if True in stays else len(own)]
        assert view.due(stream, hold=hold) == due


def test_parked_topics_are_apart_from_categories() -> None:
    shop, longest = (
        Identified.model_construct(store=name, store_id=UUID(int=0xABCDEF01 << 96)) for name in ("shop", "s" * 32)
    )
    assert parked_topic_of(shop, "billing") == "shop-parked.billing.abcdef01"
    assert parked_topic_of(shop, "a.b-c") == "shop-parked.a-2Eb-2Dc.abcdef01"
    check_length("ü" * 32)
    assert len(parked_topic_of(longest, "ü" * 32)) <= 249
    with pytest.raises(InvalidInputError):
        check_length("x" * 65)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Subscription, {"categories": "Order"}),  # the letters of a text are no categories
        (Subscription, {"categories": ["Order-42"]}),
        (Subscription, {"categories": [""]}),
        (Subscription, {"order": "total"}),
        (Subscription, {"handler_timeout_s": 0}),
        (Subscription, {"stop_timeout_s": -1}),
        (Projection, {"categories": "Order"}),
        (Projection, {"types": "OrderPlaced"}),
        (Projection, {"order": "stream"}),
        (Projection, {"schema": ""}),
        (Projection, {"schema": "public"}),
        (Projection, {"schema": "x" * 51}),
        (Transform, {"categories": "Order"}),
    ],
)
def test_what_would_read_nothing_or_the_wrong_thing_is_refused(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        kind("name", **wrong)


def test_starts_and_failures_are_checked() -> None:
    for position in (-1, 2**63, "5"):
        with pytest.raises(InvalidInputError, match="positions"):
            Start.after(position)  # type: ignore[arg-type] # on purpose
    for at in (datetime(2026, 1, 1), "2026-01-01"):  # noqa: DTZ001 - on purpose
        with pytest.raises(InvalidInputError, match="time zone"):
            Start.at_time(at)  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidInputError, match="then is 'prk'"):
        Failures(then="prk")  # type: ignore[arg-type] # on purpose
    with pytest.raises(InvalidInputError, match="after_s"):
        Retry(after_s=float("nan"))
