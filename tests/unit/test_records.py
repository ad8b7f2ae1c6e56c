"""Rows of a tick to Kafka records: positions and times."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gatelog.producer.relay.records import records_of
from gatelog.producer.relay.ticks import Tick

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
TIMES = st.datetimes().map(lambda when: when.replace(tzinfo=UTC))


def tick(times: list[datetime]) -> Tick:
    micros = [(time - EPOCH) // timedelta(microseconds=1) for time in times]
    rows = [
        (n, f"Note-{n}", "Note", "Noted", "1", f"id-{n}", when, None, None, None, None, b"")
        for n, when in enumerate(micros)
    ]
    return Tick(1, 7, rows)  # type: ignore[arg-type] # an asyncpg.Record cannot be made


@given(st.lists(TIMES, max_size=20))
def test_times_and_positions(times: list[datetime]) -> None:
    records = list(records_of("shop", "/gatelog/shop/1", tick(times)))
    headers = [dict(record[3]) for record in records]
    assert [datetime.fromisoformat(str(each["ce_time"])) for each in headers] == times
    assert [each["ce_position"] for each in headers] == [str(7 + n) for n in range(len(times))]
    assert [record[0] for record in records] == ["shop.Note"] * len(times)
    for record, time in zip(records, times, strict=True):
        ms = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        assert record[4] == max(0, ms)
