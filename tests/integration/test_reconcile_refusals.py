"""What ``reconcile`` names and does not repair, and who may not run it."""

import asyncio
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr
from support.kafka import records_of
from support.losses import delete_topic, truncate, write
from support.models import Noted, OrderPlaced
from support.reconciling import append, damage_witness, indexed_upto, look, pipeline, publish, refused, repair
from support.restores import dump, restore
from support.running import running
from support.waiting import until

from gatelog.core.errors import (
    LogMismatchError,
    ReconcileRefusedError,
    RelayActiveError,
)
from gatelog.core.settings import Settings
from gatelog.producer import Producer
from gatelog.producer.reconcile import reconciliation
from gatelog.producer.relay import Relay
from gatelog.producer.relay.relay import SILENCE_MAX_S


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    return tmp_path / "backup.sql"


async def test_kafka_that_ends_before_what_was_published(settings: Settings) -> None:
    """A topic was deleted and made again: the positions that are missing are named, and nothing is changed."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a", "b")
        await append(producer, "Other-1", "c")
        await publish(settings, 3)
        await append(producer, "Note-1", "d")
        await asyncio.to_thread(delete_topic, settings, "Note")
        await append(producer, "Note-2", "e")
    with pytest.raises(LogMismatchError, match=r"truncated, deleted or restored.*run: gatelog reconcile$"):
        await refused(settings)
    found = await look(settings)
    assert (found.missing, found.missing_ranges) == (2, [(1, 2)])
    assert any(f"{settings.store}.Note" in place for place in found.shorter)
    with pytest.raises(ReconcileRefusedError, match=r"1 to 2.*`gatelog republish` publishes them again"):
        await repair(settings)
    assert await look(settings) == found


async def test_records_that_are_gone_before_they_were_indexed(
    settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """As retention does: the topic ends where it did, but begins later."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a", "b", "c")
    async with running(Relay(settings)):

        async def is_published() -> bool:
            return len(await asyncio.to_thread(records_of, settings)) == 3

        await until(is_published, "three records are in Kafka")
    place = (await asyncio.to_thread(records_of, settings))[1]
    await asyncio.to_thread(truncate, settings, place)
    await connection.execute(
        f"UPDATE {settings.store}.relay_leader SET checked_offsets = '{{}}', checked_position = 0"
    )
    with pytest.raises(LogMismatchError, match=r"are gone from Kafka.*run: gatelog reconcile$"):
        await refused(settings)
    found = await look(settings)
    assert (found.missing, found.missing_ranges, found.agree) == (1, [(1, 1)], False)


async def test_records_of_others_are_reported_and_ignored(settings: Settings, backup: Path) -> None:
    """Another store's record, rubbish, and a copy of ours, after the backup."""
    async with Producer.connect(settings) as producer:
        events = await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await dump(settings, backup)
        events += await append(producer, "Note-1", "b")
        await publish(settings, 2)
    ours = (await asyncio.to_thread(records_of, settings))[-1]
    strange = [
        {**ours.headers, "ce_source": "/gatelog/other", "ce_position": "99"},
        {**ours.headers, "ce_position": "first"},
        ours.headers,
    ]
    await asyncio.to_thread(write, settings, ours, strange)
    await restore(settings, backup)
    found = await look(settings)
    assert (found.foreign, found.unreadable, found.copies) == (1, 1, 1)
    assert "/gatelog/other" in found.foreign_examples[0]
    assert (found.kafka_position, found.lost) == (2, 1)
    await repair(settings)
    async with Producer.connect(settings) as producer:
        events += await append(producer, "Note-1", "c")
    async with pipeline(settings) as reader:
        await until(partial(indexed_upto, reader, 3), "what is ours is indexed")
        assert [event.id async for event in reader.all()] == events


async def test_a_record_that_takes_anothers_position_is_not_repaired(settings: Settings, backup: Path) -> None:
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await dump(settings, backup)
        await publish(settings, 1)
    ours = (await asyncio.to_thread(records_of, settings))[-1]
    lie = {**ours.headers, "ce_id": "11111111-1111-1111-1111-111111111111", "ce_streamversion": "2"}
    await asyncio.to_thread(write, settings, ours, [lie])
    await restore(settings, backup)
    with pytest.raises(ReconcileRefusedError, match=r"a second time: position 1 \(Note-1@1.*Nothing was changed"):
        await repair(settings)


async def test_schemas_that_the_backup_lacks_are_named(settings: Settings, backup: Path) -> None:
    """Also when their id was given to another type since."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await dump(settings, backup)
        await producer.close_stream("Note-1", expected_version=1)
        await publish(settings, 2)
    await restore(settings, backup)
    with pytest.raises(ReconcileRefusedError, match=r"id 2 of StreamClosed \(1 events, first at position 2\)"):
        await repair(settings)
    async with Producer.connect(settings) as producer:
        await producer.prepare(OrderPlaced)
    with pytest.raises(ReconcileRefusedError, match="id 2 of StreamClosed"):
        await repair(settings)


async def test_not_beside_a_relay_and_no_relay_beside_it(settings: Settings, producer: Producer) -> None:
    (event,) = await append(producer, "Note-1", "a")
    async with pipeline(settings) as reader:
        await reader.indexed([event])
        with pytest.raises(RelayActiveError, match=r"a relay is active.*Last relay: .*:\d+"):
            await look(settings)
    async with reconciliation(settings) as made:
        assert (await made.look()).agree
        await append(producer, "Note-1", "b")
        async with running(Relay(settings)):
            await asyncio.sleep(SILENCE_MAX_S + 1)  # a standby takes nobody else for a frozen relay
            assert len(await asyncio.to_thread(records_of, settings)) == 1
            assert (await made.apply(None)).agree


async def test_a_transaction_that_has_appended_holds_it_up(
    settings: Settings, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(producer, "Note-1", "a")
    await damage_witness(settings)
    async with connection.transaction():
        await producer.append("Note-2", [Noted(text="b")], expected_version=0, connection=connection)
        with pytest.raises(ReconcileRefusedError, match="still open"):
            await repair(settings)
    assert (await repair(settings)).due == 2
    assert (await look(settings)).agree


async def test_only_the_owner_may(settings: Settings, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    role = f"{settings.store}_app"
    await connection.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA {settings.store} TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA {settings.store} TO {role};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {settings.store} TO {role}"
    )
    where = settings.dsn.rpartition("@")[2]
    theirs = settings.model_copy(update={"postgres_dsn": SecretStr(f"postgresql://{role}:x@{where}")})
    try:
        await damage_witness(settings)
        assert not (await look(theirs)).agree
        with pytest.raises(ReconcileRefusedError, match="Only the owner"):
            await repair(theirs)
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
