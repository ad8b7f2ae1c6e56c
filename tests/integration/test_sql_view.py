"""The view for psql and BI tools is what the documentation says."""

import re
from pathlib import Path

import asyncpg
from support.models import Noted

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import NewEvent

DOCUMENT = Path(__file__).parents[2] / "docs" / "sql.md"


async def test_the_columns_of_event_log_are_the_documented_ones(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    documented = re.findall(r"^\| `(\w+)` \| ([\w ]+?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    rows = await connection.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        f"{settings.store}.event_log",
    )
    assert [tuple(row) for row in rows] == documented
    assert len(documented) == 11


async def test_the_documented_queries_run(
    settings: Settings,
    producer: Producer,
    reader: Reader,
    pipeline: None,
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    new = NewEvent(Noted(text="x"), metadata={"by": "ann"})
    done = await producer.append("Order-42", [new], expected_version=ANY)
    await reader.indexed(done.event_ids)
    text = "\n".join(re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))
    statements = [each for each in text.replace("gatelog.", f"{settings.store}.").split(";") if each.strip()]
    assert len(statements) == 5
    found = [await connection.fetch(each) for each in statements]
    assert [(row["version"], row["type"], row["data"]) for row in found[0]] == [(1, "Noted", '{"text": "x"}')]
    row = await connection.fetchrow(f"SELECT * FROM {settings.store}.event_log")
    assert row is not None
    assert (row["position"], row["category"], row["event_id"], row["metadata"]) == (
        1,
        "Order",
        new.id,
        '{"by": "ann"}',
    )
