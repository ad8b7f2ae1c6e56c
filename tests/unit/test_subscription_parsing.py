"""What a subscription makes of Kafka records: as much as is looked at, and the same as the whole parser says."""

from typing import NamedTuple
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelog.core.errors import UndecodableRecordError
from gatelog.reader.subscriptions.parsing import Parser
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import Headers, headers_of, parse_record

SOURCE = "/gatelog/shop"


class Message(NamedTuple):
    """As much of a Kafka message as is looked at."""

    headers_: Headers
    value_: bytes | None
    offset_: int = 0
    partition_: int = 0

    def topic(self) -> str:
        return "shop.Order"

    def partition(self) -> int:
        return self.partition_

    def offset(self) -> int:
        return self.offset_

    def leader_epoch(self) -> int:
        return 5

    def headers(self) -> Headers:
        return self.headers_

    def value(self) -> bytes | None:
        return self.value_


def parser(types: list[str] | None = None) -> Parser:
    codec: Codec = None  # type: ignore[assignment] # nothing is decoded
    return Parser(SOURCE, codec, types, set())


def record(**changes: str | bytes | None) -> list[tuple[str, str | bytes | None]]:
    made = headers_of(
        SOURCE.encode(), str(uuid4()), "Placed", "Order-1", "3", 7, "2026-01-02T03:04:05.678901+00:00",
        str(uuid4()), None, None, '{"a": 1}',
    )  # fmt: skip
    found = dict(made) | changes
    return [(n, v.encode() if isinstance(v, str) else v) for n, v in found.items() if v is not None]


VALUE = b"\0\0\0\0\x05abc"
ASSIGNED = {("shop.Order", number): number + 1 for number in range(3)}


def test_what_is_looked_at_is_what_was_written() -> None:
    headers = record()
    (batch,) = parser().batches([Message(headers, VALUE, 4)], ASSIGNED)  # type: ignore[list-item] # it looks like one
    (event,) = batch.events
    whole = parse_record(SOURCE, headers, VALUE)
    assert (event.stream, event.version, event.position, event.type) == ("Order-1", 3, 7, "Placed")
    assert (event.schema_id, event.raw, event.id, event.recorded_at) == (5, b"abc", whole.id, whole.recorded_at)
    assert (event.correlation_id, event.causation_id) == (whole.correlation_id, None)
    assert event.metadata == {"a": 1}
    assert (batch.offsets, batch.next_offset, batch.assignment, batch.epoch) == ([4], 5, 1, 5)


@given(
    st.sampled_from(["ce_id", "ce_type", "ce_subject", "ce_time", "ce_streamversion", "ce_position", "ce_source"]),
    st.sampled_from([None, "", "0", "-1", "x", "Order-2", str(2**63), "\0", "x" * 256, "/gatelog/other"]),
    st.sampled_from([VALUE, None, b"", b"\0\0", b"\1\0\0\0\5abc", b"\0\x80\0\0\0abc"]),
)
def test_what_is_not_ours_or_unreadable_is_passed_over_or_fails_when_it_is_looked_at(
    name: str, content: str | None, value: bytes | None
) -> None:
    headers = record(**{name: content})
    made = parser()
    batches = made.batches([Message(headers, value)], ASSIGNED)  # type: ignore[list-item] # it looks like one
    events = batches[0].events
    assert batches[0].next_offset == 1, "it is past, whatever it is"
    try:
        whole = parse_record(SOURCE, headers, value)
    except UndecodableRecordError:
        if events:  # only what neither orders nor routes it may be found later
            assert name in {"ce_id", "ce_time"}
            assert value == VALUE
            with pytest.raises(UndecodableRecordError):
                _ = events[0].recorded_at
        else:
            assert made.passed_over == 1
    else:
        assert events[0]._row == whole


@given(st.lists(st.tuples(st.sampled_from(["Placed", "Paid", "Sent"]), st.integers(0, 3)), max_size=30))
def test_other_types_are_past_and_other_partitions_dropped(messages: list[tuple[str, int]]) -> None:
    """Partition 3 is not ours."""
    made = [
        Message(record(ce_type=name), VALUE, offset, partition) for offset, (name, partition) in enumerate(messages)
    ]
    found = {batch.place[1]: batch for batch in parser(["Paid", "Sent"]).batches(made, ASSIGNED)}  # type: ignore[arg-type] # they look like some
    assert set(found) == {partition for _, partition in messages} - {3}
    for partition, batch in found.items():
        mine = [(offset, name) for offset, (name, at) in enumerate(messages) if at == partition]
        assert [(o, e.type) for o, e in zip(batch.offsets, batch.events, strict=True)] == [
            (offset, name) for offset, name in mine if name != "Placed"
        ]
        assert batch.next_offset == mine[-1][0] + 1
