"""Records that cannot be read stop nothing else, are kept whole, and end in the index once after a fix."""

import asyncio
from functools import partial

import asyncpg
import pytest
from support.kafka import records_of
from support.losses import write
from support.reconciling import append, indexed_upto, pipeline, publish
from support.running import running
from support.waiting import until

from gatelog.core import postgres
from gatelog.core.errors import InvalidInputError
from gatelog.core.identity import Identified
from gatelog.indexer import Indexer
from gatelog.indexer.unreadable import Outcome, UnreadableRecords
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.reader import Reader


async def retry(settings: Identified, *numbers: int) -> list[Outcome]:
    async with postgres.pool(settings.dsn, settings.store, "test", 2) as pool:
        return [each async for each in UnreadableRecords(settings, pool, pool).retry(list(numbers) or None)]


async def test_payloads_of_an_unknown_schema_are_indexed_and_get_their_jsonb_later(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The registry lost a schema: bytes and envelope are indexed all the same; the repair fills what was missing."""
    store = settings.store
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        schema = await connection.fetchrow(f"SELECT * FROM {store}.schemas")
        assert schema is not None
        # As after a restore of the registry that lacks it.
        await connection.execute(
            f"ALTER TABLE {store}.schemas DISABLE TRIGGER ALL; DELETE FROM {store}.schemas;"
            f"ALTER TABLE {store}.schemas ENABLE TRIGGER ALL"
        )
        await publish(settings, 1)
    (left,) = await retry(settings)
    assert not left.settled
    assert "Schema id 1 is not in the registry" in left.what
    await connection.execute(
        f"INSERT INTO {store}.schemas OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5)", *list(schema)[:5]
    )
    outcomes = await asyncio.gather(retry(settings), retry(settings))  # two at once
    assert all(each.settled for found in outcomes for each in found)
    assert await connection.fetchval(f"SELECT data_json ->> 'text' FROM {store}.events") == "a"
    assert await retry(settings) == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="immutable"):
        await connection.execute(f"""UPDATE {store}.events SET data_json = '{{"text": "b"}}'""")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="immutable"):
        await connection.execute(f"UPDATE {store}.events SET data_json = NULL")


async def test_missing_json_is_all_that_may_be_filled(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    bare = settings.model_copy(update={"index_jsonb": False})
    async with Producer.connect(bare) as producer:
        await append(producer, "Note-1", "a")
        await publish(bare, 1)
    for change in (
        "stream = 'x'",
        "data_json = '{}', type = 'x'",
        "position = 2",
        "data = '\\x00'",
        "metadata = '{}'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="immutable"):
            await connection.execute(f"UPDATE {settings.store}.events SET {change}")
    await connection.execute(f"UPDATE {settings.store}.events SET data_json = '{{}}'")


async def test_a_record_that_was_unreadable_is_indexed_once_after_the_fix(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """As with an indexer that is older than the relay: it cannot read a header, a newer one can."""
    store = settings.store
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a", "b", "c")
        await append(producer, "Other-1", "d")
        await publish(settings, 4)
        await append(producer, "Note-1", "e", "f")
        for segment in (0, 1):
            await connection.execute(
                f"ALTER TABLE {store}.outbox_{segment} DISABLE TRIGGER ALL;"
                f"UPDATE {store}.outbox_{segment} SET type = repeat('x', 300) WHERE (stream, version) = ('Note-1', 4)"
                f";ALTER TABLE {store}.outbox_{segment} ENABLE TRIGGER ALL"
            )
    async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:

        async def is_kept() -> bool:
            return bool(await connection.fetchval(f"SELECT count(*) = 1 FROM {store}.unreadable_records"))

        await until(is_kept, "it is kept")

        async def six_is_indexed() -> bool:
            return bool(await connection.fetchval(f"SELECT count(*) FROM {store}.events WHERE position = 6"))

        await until(six_is_indexed, "what follows it goes on")
        assert await reader.frontier() == 4, "nothing is skipped silently"
        (left,) = await retry(settings)
        assert (left.settled, "ce_type is longer" in left.what) == (False, True)
        # The fix: here it is in the kept record, for want of a newer program.
        await connection.execute(
            f"UPDATE {store}.unreadable_records SET headers = headers || "
            "jsonb_build_object('ce_type', encode('Noted', 'base64'))"
        )
        outcomes = [each for found in await asyncio.gather(retry(settings), retry(settings)) for each in found]
        assert {each.what for each in outcomes} <= {"indexed at position 5", "settled by somebody else meanwhile"}
        assert await reader.frontier() == 6
        assert [event.version async for event in reader.stream("Note-1")] == [1, 2, 3, 4, 5]


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


async def test_lies_are_left_until_somebody_dismisses_them(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        (ours,) = await asyncio.to_thread(records_of, settings)
        lie = {**ours.headers, "ce_id": uuid(1)}
        await asyncio.to_thread(write, settings, ours, [ours.headers, lie])
        (more,) = await append(producer, "Note-1", "b")
        async with pipeline(settings) as reader:
            await until(partial(indexed_upto, reader, 2), "the rest goes on")
    (lied,) = await retry(settings)  # the copy was passed over
    assert not lied.settled
    assert "its version in the stream is another event's" in lied.what
    async with postgres.pool(settings.dsn, settings.store, "test", 2) as pool:
        records = UnreadableRecords(settings, pool, pool)
        whole = await records.show(lied.id)
        assert (whole.value, whole.key, whole.headers["ce_id"]) == (ours.value, b"Note-1", uuid(1).encode())
        with pytest.raises(InvalidInputError, match=r"no open unreadable record 99. Nothing was changed"):
            await records.dismiss([lied.id, 99], "not ours")
        assert [each.id for each in await records.list()] == [lied.id]
        await records.dismiss([lied.id], "not ours")
        assert await records.list() == []
        assert [each.resolution for each in await records.list(settled=True)][-1] == "dismissed: not ours"
    assert await connection.fetchval(f"SELECT count(*) FROM {settings.store}.events") == 2
    assert more
