"""Payloads as jsonb: what Postgres takes, and what the bytes keep."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field
from support.codecs import codec_for

from gatelog.indexer.rows import COLUMNS, json_of, row_of
from gatelog.schemas import Event
from gatelog.schemas.envelope import Record


class Mixed(Event):
    text: str
    number: int
    real: float
    raw: bytes
    money: Decimal = Field(max_digits=30, decimal_places=2)
    at: AwareDatetime
    uid: UUID


async def json_text(event: Mixed) -> str:
    codec = await codec_for(Mixed)
    schema_id, data = codec.encode(event, "S-1", 1 << 20)
    await codec.warm({schema_id})
    return json_of(codec, schema_id, data)


EXAMPLE = Mixed(
    text="é",
    number=2**60,
    real=0.5,
    raw=b"\xff",
    money=Decimal("12345678901234567890.12"),
    at=datetime(2026, 1, 2, tzinfo=UTC),
    uid=UUID(int=1),
)


async def test_numbers_stay_numbers_and_decimals_stay_exact() -> None:
    assert json.loads(await json_text(EXAMPLE)) == {
        "text": "é",
        "number": 2**60,
        "real": 0.5,
        "raw": "/w==",
        "money": "12345678901234567890.12",
        "at": "2026-01-02T00:00:00+00:00",
        "uid": "00000000-0000-0000-0000-000000000001",
    }


class Tiny(Event):
    price: Decimal = Field(max_digits=20, decimal_places=10)


async def test_a_decimal_has_all_its_places_and_no_exponent() -> None:
    codec = await codec_for(Tiny)
    for price, text in ((Decimal(0), "0.0000000000"), (Decimal("1E-10"), "0.0000000001")):
        schema_id, data = codec.encode(Tiny(price=price), "S-1", 1 << 20)
        await codec.warm({schema_id})
        assert json.loads(json_of(codec, schema_id, data)) == {"price": text}


@given(st.text(), st.floats())
async def test_any_text_and_any_float_is_json(text: str, real: float) -> None:
    found = await json_text(EXAMPLE.model_copy(update={"text": text, "real": real}))
    assert "\\u0000" not in found, "jsonb holds no NUL"
    assert orjson.loads(found)["text"] == text.replace("\0", "\ufffd")


async def test_a_backslash_before_u0000_stays_as_it_is() -> None:
    assert json.loads(await json_text(EXAMPLE.model_copy(update={"text": "\\u0000"})))["text"] == "\\u0000"


def test_rows_follow_their_columns() -> None:
    record = Record("C-1", 2, 3, UUID(int=1), "T", datetime(2026, 1, 2, tzinfo=UTC), None, None, "tp", "{}", 4, b"x")
    row = dict(zip(COLUMNS, row_of(record, "{}"), strict=True))
    assert (row["category"], row["stream"], row["version"], row["position"]) == ("C", "C-1", 2, 3)
    assert (row["traceparent"], row["metadata"], row["data"], row["data_json"]) == ("tp", "{}", b"x", "{}")
