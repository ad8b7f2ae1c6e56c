"""Query shapes use indexes, at a size at which it matters; indexes on declared fields are made, kept and dropped."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import AwareDatetime, BaseModel, Field
from support.processes import environment, gatelog

from gatelog.core.errors import InvalidInputError, PayloadNotIndexedError, SchemaError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.indexer.fields import FieldIndexes, index_fields
from gatelog.reader import Query, Reader, field
from gatelog.schemas import Event, Indexed
from gatelog.schemas.indexed import IndexedField, indexed_fields

ROWS = 50_000
START = datetime(2026, 1, 1, tzinfo=UTC)


class Delivery(BaseModel):
    city: Annotated[str | None, Indexed()] = None
    street: str = ""


class Billed(Event):
    customer: Annotated[str, Indexed()]
    total: Annotated[Decimal, Indexed()] = Field(max_digits=12, decimal_places=2)
    due: Annotated[AwareDatetime, Indexed()]
    count: Annotated[int, Indexed()]
    delivery: Delivery
    remark: str = ""


# As the indexer leaves them, without the way through Kafka: one type in a hundred is rare.
_FILL = """
INSERT INTO {store}.events (position, stream, version, event_id, category, type, schema_id, recorded_at,
    correlation_id, data, data_json)
SELECT n, c.name || '-' || n % 5000, n / 5000 + 1, md5(n::text)::uuid, c.name,
    CASE WHEN n % 100 = 0 THEN 'Rare' WHEN n % 2 = 0 THEN 'Billed' ELSE 'Other' END, 1,
    $1::timestamptz + n * interval '1 second', CASE WHEN n % 10 = 0 THEN md5((n / 100)::text)::uuid END, '\\x00',
    jsonb_build_object('customer', 'c' || n % 7000, 'total', (n % 9000)::text || '.50', 'count', n % 9000,
        'due', to_char(timestamp '2026-01-01' + n * interval '1 minute', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
        'delivery', jsonb_build_object('city', 'city ' || n % 3000), 'remark', repeat('x', 50))
FROM generate_series(1, $2::bigint) n, LATERAL (SELECT CASE WHEN n % 500 = 0 THEN 'Small' ELSE 'Big' END AS name) c
"""


@pytest.fixture
async def filled(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[Reader]:
    await connection.execute(_FILL.format(store=settings.store), START, ROWS)
    await connection.execute(f"UPDATE {settings.store}.index_frontier_log SET position = {ROWS}")
    await index_at_once(connection, settings.store)
    await connection.execute(f"VACUUM ANALYZE {settings.store}.events")
    async with Reader.connect(settings) as reader:
        yield reader


async def index_at_once(connection: "asyncpg.Connection[asyncpg.Record]", store: str) -> None:
    """Make the indexes without CONCURRENTLY, which waits for every transaction of the shared server."""
    for each in indexed_fields(Billed):
        made = await connection.fetchrow(
            queries("gatelog.indexer", "fields.sql", store)["definition"],
            each.event_type,
            list(each.path),
            each.kind,
            str(each),
        )
        assert made is not None
        await connection.execute(made["make"].replace("CONCURRENTLY", ""))
        await connection.execute(made["describe"])
        await connection.execute(made["observe"])


async def index(settings: Settings, wanted: list[IndexedField], *, drop: bool = False) -> FieldIndexes:
    connection = await asyncpg.connect(settings.dsn)
    try:
        return await index_fields(connection, settings.store, wanted, drop=drop, progress=print)
    finally:
        await connection.close()


async def names(connection: "asyncpg.Connection[asyncpg.Record]", store: str) -> dict[str, str]:
    """The indexes on fields by what they are on."""
    rows = await connection.fetch(
        "SELECT obj_description(c.oid) AS field, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        f"WHERE i.indrelid = '{store}.events'::regclass AND c.relname LIKE 'events\\_field\\_%'"
    )
    return {row["field"]: row["relname"] for row in rows}


async def test_query_shapes_use_indexes(
    filled: Reader, settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    reader = filled
    on = await names(connection, settings.store)
    story = UUID(bytes=bytes.fromhex("c4ca4238a0b923820dcc509a6f75849b"))  # md5 of 1
    late = START + timedelta(seconds=ROWS - 2_000)
    shapes: list[tuple[Query, str]] = [
        (reader.all(), "events_pkey"),
        (reader.all(backward=True), "events_pkey"),
        (reader.category("Small"), "events_category_position_idx"),
        (reader.category("Small", "Big"), "events_category_position_idx"),
        (reader.all(types=["Rare"]), "events_type_position_idx"),
        (reader.all(types=["Rare", "Billed"], backward=True), "events_type_position_idx"),
        (reader.all(correlation_id=story), "events_correlation_idx"),
        (reader.all(since=late), "events_recorded_at_idx"),
        (reader.all(until=START + timedelta(seconds=9), backward=True), "events_recorded_at_idx"),
        (reader.all(types=[Billed], where={"customer": "c12"}), on["Billed.customer"]),
        (reader.all(types=[Billed], where={"customer": "c12"}, backward=True), on["Billed.customer"]),
        (reader.category("Big", types=[Billed, "Rare"], where={"customer": "c12"}), on["Billed.customer"]),
        (reader.all(types=[Billed], where=[field("total") >= Decimal("8998.5")]), on["Billed.total"]),
        (reader.all(types=[Billed], where=[field("count") > 8990, field("count") < 8995]), on["Billed.count"]),
        (reader.all(types=[Billed], where={"delivery": {"city": "city 14"}}), on["Billed.delivery.city"]),
        (reader.all(types=[Billed], where=[field("due") < START + timedelta(minutes=30)]), on["Billed.due"]),
        (reader.all(types=[Billed], where=[field("customer") == "c" + "y" * 300]), on["Billed.customer"]),
    ]
    for query, index_name in shapes:
        plan = await query.explain()
        assert index_name in plan, plan
        assert "Seq Scan on events" not in plan, plan
        [event.position async for event in query]
    # What is found this way is what is there.
    billed = [n for n in range(1, ROWS + 1) if n % 2 == 0 and n % 100]
    by_customer = reader.all(types=[Billed], where={"customer": "c12"})
    assert [e.position async for e in by_customer] == [n for n in billed if n % 7000 == 12]
    dear = reader.all(types=[Billed], where=[field("total") >= Decimal("8998.5")])
    assert [e.position async for e in dear] == [n for n in billed if n % 9000 >= 8998]
    of_story = [n for n in range(1, ROWS + 1) if (n % 10 == 0 and n // 100 == 1) or n == 1]
    assert [e.position async for e in reader.all(correlation_id=story)] == of_story
    assert "actual time" in await by_customer.explain(analyze=True)
    # A page far inside a time range does not walk there from the beginning of the log, past 49,000 rows.
    late = START + timedelta(seconds=ROWS - 1_000)
    plan = await reader.all(since=late, limit=10).explain(analyze=True)
    removed = [int(number) for number in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
    assert sum(removed) <= 1_000, plan
    page = await reader.all(since=late).page(10)
    assert [event.position for event in page.events] == list(range(ROWS - 1_000, ROWS - 990))


async def test_indexes_follow_what_is_declared(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    wanted = indexed_fields(Billed)
    assert [str(each) for each in wanted] == [
        "Billed.customer",
        "Billed.total",
        "Billed.due",
        "Billed.count",
        "Billed.delivery.city",
    ]
    assert (await index(settings, wanted[1:3])).made == ["Billed.total", "Billed.due"]
    again = await index(settings, wanted[:2])
    assert (again.made, again.kept, again.undeclared) == (["Billed.customer"], ["Billed.total"], ["Billed.due"])
    # An attempt that was broken off leaves an index that is not used: it is made anew.
    name = (await names(connection, settings.store))["Billed.customer"]
    await connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::regclass", f"{settings.store}.{name}"
    )
    assert (await index(settings, wanted[:2], drop=True)).made == ["Billed.customer"]
    assert set(await names(connection, settings.store)) == {"Billed.customer", "Billed.total"}


def test_only_what_can_be_compared_is_indexed() -> None:
    class Unordered(Event):
        tags: Annotated[list[str], Indexed()]

    with pytest.raises(SchemaError, match=r"Unordered\.tags.*cannot be Indexed"):
        indexed_fields(Unordered)


async def test_payload_conditions_without_jsonb(settings: Settings) -> None:
    async with Reader.connect(settings.model_copy(update={"index_jsonb": False})) as reader:
        query = reader.all(where={"customer": "ann"})
        for asked in (query.page(1), query.explain(), anext(aiter(query))):
            with pytest.raises(PayloadNotIndexedError, match="index_jsonb is off"):
                await asked


async def test_strange_names_are_text(settings: Settings, reader: Reader) -> None:
    """Paths and names become part of the statement: whatever they hold, they stay names."""
    for strange in ("a'b", "a\\'b", "$1", "@limit", "{a,b}", '"', "é", "'); DROP TABLE x; --", "E'\\x40'"):
        found: Any = [e async for e in reader.category(strange, where=[field(strange, "x") == strange])]
        assert found == []
    with pytest.raises(InvalidInputError):
        reader.category("a\0")


def test_the_command(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from typing import Annotated\nfrom gatelog.schemas import Event, Indexed\n"
        "class Placed(Event):\n    customer: Annotated[str, Indexed()]\n",
        encoding="utf-8",
    )
    env = environment(settings)
    assert "Placed.customer" in gatelog(["index", "fields", "shop"], env, tmp_path).stdout
    again = gatelog(["index", "fields", "shop", "--json"], env, tmp_path)
    assert '"kept":["Placed.customer"]' in again.stdout, again.stderr
    refused = gatelog(["index", "fields", "no.such"], env, tmp_path)
    assert (refused.returncode, "no.such cannot be imported" in refused.stderr) == (2, True)
