"""The position that is committed with an offset: what it says is handled must be, and all of it."""

from collections.abc import Sequence

from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from gatelog.reader.subscriptions.marks import (
    Mark,
    Trail,
    before_kafka,
    begins_before_kafka,
    is_before_kafka,
    kafka_marks,
    marks_of,
)
from gatelog.reader.subscriptions.window import Window

PLACE = ("s.Note", 2)


@st.composite
def partitions(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Offsets and positions of a partition's records: both rise, with gaps."""
    steps = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=30))
    found, offset, position = [], 0, 0
    for more_offset, more_position in steps:
        offset, position = offset + more_offset, position + more_position
        found.append((offset, position))
    return found


@given(partitions(), st.data())
def test_a_mark_tells_exactly_what_is_handled(records: list[tuple[int, int]], data: st.DataObject) -> None:
    """From the index up to somewhere, then from Kafka, finished in any order; the judge keeps a plain list."""
    told = data.draw(st.integers(0, len(records)), "from the index")
    known = data.draw(st.booleans(), "where it begins is known")
    trail = Trail(Mark(0, 0 if known else None))
    start = begins_before_kafka(0 if known else None)
    window = Window(start)
    assert is_before_kafka(start)
    assert trail.mark(window.committable) == Mark(0, 0 if known else None)
    places = [before_kafka(position) for _, position in records[:told]] + [offset for offset, _ in records[told:]]
    for chunk in _chunks(data, places[:told]):
        window.take(chunk, chunk[-1] + 1)
    upto = records[told - 1][1] if told else 0
    window.take([], records[told - 1][0] + 1 if told else 0)
    trail.told(upto)
    positions = dict(zip(places, (position for _, position in records), strict=True))
    for chunk in _chunks(data, places[told:]):
        window.take(chunk, chunk[-1] + 1)
        trail.took(chunk, [positions[place] for place in chunk], chunk[-1] + 1, positions[chunk[-1]])
    left = list(zip(places, (position for _, position in records), strict=True))
    for nth in data.draw(st.permutations(range(len(records))), "order in which they end"):
        window.finish(places[nth])
        left.remove((places[nth], positions[places[nth]]))
        mark = trail.mark(window.committable)
        assert mark.position is not None
        below = [position for _, position in records if position <= mark.position]
        due = min((position for _, position in left), default=None)
        assert due is None or mark.position < due, "it would be skipped"
        assert [p for p in positions.values() if due is None or p < due] == below, "it would come again"
        assert mark.offset == (0 if is_before_kafka(window.committable) else window.committable)


def _chunks(data: st.DataObject, places: Sequence[int]) -> list[Sequence[int]]:
    found, rest = [], places
    while rest:
        size = data.draw(st.integers(1, len(rest)), "records of a batch")
        found.append(rest[:size])
        rest = rest[size:]
    return found


def test_marks_survive_kafka_and_strangers_have_no_position() -> None:
    assert marks_of(kafka_marks({PLACE: Mark(7, 12)})) == {PLACE: Mark(7, 12)}
    assert marks_of(kafka_marks({PLACE: Mark(7, None, 3)})) == {PLACE: Mark(7, None, 3)}
    assert marks_of(kafka_marks({PLACE: Mark(7)})) == {PLACE: Mark(7)}
    assert marks_of(kafka_marks({PLACE: Mark(7, 12, 3, "x-y_z")})) == {PLACE: Mark(7, 12, 3, "x-y_z")}
    mark = Mark(7, None, None, "x-y_z", 0, waits=True)
    assert marks_of(kafka_marks({PLACE: mark})) == {PLACE: mark}
    strange = [TopicPartition(*PLACE, 3, metadata=text) for text in ("x", "gatelog position=", "position=4", "")]
    assert [marks_of([each])[PLACE] for each in strange] == [Mark(3)] * 4
    assert marks_of([TopicPartition(*PLACE, -1001)]) == {}


def test_what_is_not_known_stays_so_until_an_event_tells() -> None:
    trail = Trail(Mark(5))
    assert trail.mark(8) == Mark(8), "records of other types"
    trail.took([9, 11], [40, 44], 12, 44)
    assert trail.mark(9) == Mark(9, 39)
    trail.epoch = 2
    assert trail.mark(9) == Mark(9, 39, 2), "what was read since is of one history with what stands before"
    trail.epoch = None
    assert trail.mark(10) == Mark(10, 40)
    assert trail.mark(12) == Mark(12, 44)
    trail.took([], [], 20, 60)
    assert trail.mark(20) == Mark(20, 60), "records of other types were read, and count as handled"


def test_a_group_waits_until_the_first_event_of_its_time_is_handled() -> None:
    trail = Trail(Mark(5, settled=3, waits=True))
    assert trail.mark(5) == Mark(5, settled=3, waits=True)
    trail.took([], [], 8, 30)
    waited = trail.waits
    trail.met(9)
    trail.took([9, 10], [40, 41], 11, 41)
    assert (waited, trail.waits) == (True, False)
    assert trail.mark(9).waits, "whoever goes on here looks for it again"
    assert trail.mark(10) == Mark(10, 40, settled=3)
