"""The Kafka record of an event: headers out, headers in."""

import string
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelog.core.domain import RECORDED_FROM
from gatelog.core.errors import UndecodableRecordError
from gatelog.core.identity import source_of
from gatelog.schemas.codec import WIRE_HEADER
from gatelog.schemas.envelope import (
    ForeignRecordError,
    Headers,
    NamesakeRecordError,
    Record,
    headers_of,
    parse_record,
)

SOURCE = source_of("shop", UUID(int=1))
TIMES = st.datetimes(RECORDED_FROM.replace(tzinfo=None), datetime(9999, 12, 30)).map(  # noqa: DTZ001 - made aware here
    lambda when: when.replace(tzinfo=UTC)
)
RECORDS = st.builds(
    Record,
    stream=st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=50).map(
        "C-{}".format
    ),
    version=st.integers(1, 2**63 - 1),
    position=st.integers(1, 2**63 - 1),
    id=st.uuids(),
    type=st.text(string.ascii_letters, min_size=1),
    recorded_at=TIMES,
    correlation_id=st.none() | st.uuids(),
    causation_id=st.none() | st.uuids(),
    traceparent=st.none() | st.text(string.hexdigits, min_size=1),
    metadata_json=st.none() | st.just('{"ü": 1}'),
    schema_id=st.integers(1, 2**31 - 1),
    raw=st.binary(),
)


def headers(record: Record) -> dict[str, str | bytes | None]:
    return dict(
        headers_of(
            SOURCE.encode(),
            str(record.id),
            record.type,
            record.stream,
            str(record.version),
            record.position,
            record.recorded_at.isoformat(),
            str(record.correlation_id) if record.correlation_id else None,
            str(record.causation_id) if record.causation_id else None,
            record.traceparent,
            record.metadata_json,
        )
    )


EXAMPLE = Record(
    "Order-42", 1, 7, UUID(int=1), "Placed", datetime(2026, 1, 2, tzinfo=UTC), None, None, None, None, 3, b"x"
)
WIRE = b"\x00\x00\x00\x00\x03x"


@given(RECORDS)
def test_a_record_comes_back_from_its_headers(record: Record) -> None:
    sent = {name: text.encode() if isinstance(text, str) else text for name, text in headers(record).items()}
    assert parse_record(SOURCE, sent, WIRE_HEADER.pack(0, record.schema_id) + record.raw) == record


def test_the_headers_are_those_of_cloudevents() -> None:
    assert headers(EXAMPLE) == {
        "ce_specversion": b"1.0",
        "content-type": b"application/vnd.confluent.avro",
        "ce_source": SOURCE.encode(),
        "ce_id": "00000000-0000-0000-0000-000000000001",
        "ce_type": "Placed",
        "ce_subject": "Order-42",
        "ce_time": "2026-01-02T00:00:00+00:00",
        "ce_streamversion": "1",
        "ce_position": "7",
    }


@pytest.mark.parametrize("found", [None, {}, {"ce_source": b"/gatelog/other"}, {"x": b"y"}])
def test_records_of_others_are_told_apart(found: Headers | None) -> None:
    with pytest.raises(ForeignRecordError):
        parse_record(SOURCE, found, WIRE)


@pytest.mark.parametrize("source", ["/gatelog/shop", "/gatelog/shop/1", source_of("shop", UUID(int=2)).encode()])
def test_records_of_a_namesake_are_told_apart(source: str | bytes) -> None:
    with pytest.raises(NamesakeRecordError):
        parse_record(SOURCE, {**headers(EXAMPLE), "ce_source": source}, WIRE)
    with pytest.raises(ForeignRecordError) as other:
        parse_record(SOURCE, {**headers(EXAMPLE), "ce_source": b"/gatelog/shopping/1"}, WIRE)
    assert not isinstance(other.value, NamesakeRecordError)


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ({"ce_id": b"no uuid"}, WIRE),
        ({"ce_id": None}, WIRE),
        ({"ce_position": b"first"}, WIRE),
        ({"ce_time": b"yesterday"}, WIRE),
        ({"ce_time": b"2026-01-02T00:00:00"}, WIRE),
        ({"ce_subject": b"\xff"}, WIRE),
        ({"ce_subject": b"Order-\x00"}, WIRE),
        ({"ce_type": b"A\x00"}, WIRE),
        ({"ce_type": b"A" * 256}, WIRE),  # what follows is more than Postgres takes
        ({"ce_time": b"0001-01-01T00:00:00+14:00"}, WIRE),
        ({"ce_time": b"9999-12-31T23:59:59-14:00"}, WIRE),
        ({"ce_time": b"9999-12-31T00:00:00+00:00"}, WIRE),  # no time in some zone
        ({"ce_time": b"0001-01-01T23:59:59+00:00"}, WIRE),
        ({}, b"\x00\x80\x00\x00\x00x"),
        ({"ce_streamversion": b"0"}, WIRE),
        *(
            ({name: b}, WIRE)
            for name in ("ce_streamversion", "ce_position")
            for b in (b"+1", b" 1", b"1_0", b"1\n", b"")
        ),
        ({"ce_position": "\u0661".encode()}, WIRE),
        ({"ce_metadata": b"[1]"}, WIRE),
        ({"ce_metadata": b"3"}, WIRE),
        ({"ce_position": b"9223372036854775808"}, WIRE),
        ({"ce_metadata": b"{"}, WIRE),
        ({"ce_metadata": b'{"a": "\\u0000"}'}, WIRE),
        ({}, None),
        ({}, b""),
        ({}, b"\x00\x00"),
        ({}, b"\x01\x00\x00\x00\x03x"),
    ],
)
def test_a_broken_record_is_one_clear_error(changed: dict[str, bytes | None], value: bytes | None) -> None:
    with pytest.raises(UndecodableRecordError) as broken:
        parse_record(SOURCE, {**headers(EXAMPLE), **changed}, value)
    assert not isinstance(broken.value, ForeignRecordError), "it claims to be ours"


@given(st.dictionaries(st.sampled_from([*headers(EXAMPLE), "traceparent"]), st.none() | st.binary()), st.binary())
def test_no_header_and_no_value_brings_the_reader_down(changed: dict[str, str | bytes | None], value: bytes) -> None:
    try:
        parse_record(SOURCE, {**headers(EXAMPLE), **changed}, value)
    except UndecodableRecordError:
        return
    assert value[:1] == b"\x00"


@pytest.mark.parametrize("number", ["1e-20000", "0e-99999999", f"0.{'0' * 17_000}1"])
def test_numbers_that_postgres_would_refuse_become_those_that_python_reads(number: str) -> None:
    """One of them would fail every query of the view ``event_log``."""
    record = parse_record(SOURCE, {**headers(EXAMPLE), "ce_metadata": f'{{"a": {number}}}'}, WIRE)
    assert record.metadata_json == '{"a":0.0}'


def test_times_keep_microseconds() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=1)
    record = parse_record(SOURCE, {**headers(EXAMPLE), "ce_time": when.isoformat()}, WIRE)
    assert record.recorded_at == when
