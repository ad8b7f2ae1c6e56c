"""Records under our name that the relay did not write: the truth wins, they are set aside, and can be settled."""

import asyncio
from collections.abc import Sequence
from functools import partial

import asyncpg
import pytest
from confluent_kafka import Producer as KafkaProducer
from support.kafka import Seen, records_of
from support.losses import write
from support.reconciling import append, indexed_upto, look, pipeline, publish, refused
from support.running import running
from support.waiting import until

from gatelog.core import postgres
from gatelog.core.errors import LogMismatchError
from gatelog.core.identity import Identified
from gatelog.indexer import Indexer
from gatelog.indexer.unreadable import Outcome, Unreadable, UnreadableRecords
from gatelog.indexer.verify import verify
from gatelog.producer import Producer
from gatelog.producer.relay import Relay
from gatelog.producer.relay.ticks import Ticks
from gatelog.reader import Reader

FAR = 2**62


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


def forged(ours: Seen, position: int, **changed: str) -> dict[str, str]:
    """A record as the relay might have written it: an event of a stream that nobody has appended to."""
    claims = {"ce_position": str(position), "ce_id": uuid(position % 10**9), "ce_subject": "Note-forged"}
    return {**ours.headers, **claims, "ce_streamversion": "1", **changed}


async def forge(settings: Identified, ours: Seen, *headers: dict[str, str]) -> None:
    await asyncio.to_thread(write, settings, ours, headers)


async def kept(settings: Identified) -> list[Unreadable]:
    async with postgres.pool(settings.dsn, settings.store, "test", 2) as pool:
        return await UnreadableRecords(settings, pool, pool).list()


async def retry(settings: Identified) -> list[Outcome]:
    async with postgres.pool(settings.dsn, settings.store, "test", 2) as pool:
        return [each async for each in UnreadableRecords(settings, pool, pool).retry()]


async def dismiss(settings: Identified, records: Sequence[Unreadable]) -> None:
    async with postgres.pool(settings.dsn, settings.store, "test", 2) as pool:
        await UnreadableRecords(settings, pool, pool).dismiss([each.id for each in records], "not ours")


async def are_kept(settings: Identified, number: int) -> bool:
    return len(await kept(settings)) >= number


async def judge(settings: Identified, events: int) -> None:
    """Index and Kafka hold what was appended, and nothing else, as far as somebody may look."""
    async with Reader.connect(settings) as reader:
        found = [event async for event in reader.all()]
        assert [event.position for event in found] == list(range(1, events + 1))
        assert "Note-forged" not in {event.stream for event in found}
        assert not await reader.exists("Note-forged")
    assert (await look(settings)).agree
    assert not (await verify(settings, lambda *_: None)).differences


async def test_what_claims_a_position_that_was_not_given_is_set_aside(settings: Identified) -> None:
    """While the pipeline runs, and when it starts anew; the positions are given to others afterwards."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        (ours,) = await asyncio.to_thread(records_of, settings)
        async with pipeline(settings) as reader:
            await append(producer, "Note-1", "b")
            await until(partial(indexed_upto, reader, 2), "a relay runs")
            copy = {**ours.headers, "ce_position": "5"}
            await forge(settings, ours, *(forged(ours, position) for position in (3, 4, 9, FAR)), copy)
            await until(partial(are_kept, settings, 5), "they are set aside")
            assert all("was not given" in each.reason for each in await kept(settings))
            await append(producer, "Note-1", "c", "d")
            await append(producer, "Note-2", "e")
            await until(partial(indexed_upto, reader, 5), "the truth is indexed")
        assert [each for each in await retry(settings) if each.settled] == []
        async with pipeline(settings) as reader:
            await append(producer, "Note-2", "f")
            await until(partial(indexed_upto, reader, 6), "the relay goes on after a new start")
    await dismiss(settings, await kept(settings))
    await judge(settings, 6)


async def test_what_claims_the_position_of_an_event_that_comes_later_is_set_aside(settings: Identified) -> None:
    """The truth waits in another partition: a stranger's open transaction hides it."""
    async with Producer.connect(settings) as producer, Reader.connect(settings) as reader:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        (ours,) = await asyncio.to_thread(records_of, settings)
        servers = settings.kafka_properties["bootstrap.servers"]
        stranger = KafkaProducer({"bootstrap.servers": servers, "transactional.id": f"{settings.store}-stranger"})
        await asyncio.to_thread(stranger.init_transactions, 30)
        elsewhere = Seen(**{**ours.__dict__, "partition": (ours.partition + 1) % 3})
        async with running(Relay(settings)):
            await append(producer, "Note-1", "b")
            await until(partial(is_published, settings, 2), "a relay runs")
            stranger.begin_transaction()
            stranger.produce(ours.topic, value=b"x", partition=ours.partition)
            await asyncio.to_thread(stranger.flush, 30)
            (event,) = await append(producer, "Note-1", "c")
            await until(partial(is_published, settings, 3), "it is published")
            lies = [
                forged(ours, 3),  # a stream that is not there
                forged(ours, 3, ce_subject="Note-1", ce_streamversion="3"),  # the version of another
                forged(ours, 3, ce_subject="Note-1", ce_streamversion="9", ce_id=uuid(4)),
                forged(ours, 3, ce_id=str(event)),  # its id under another name
            ]
            await forge(settings, elsewhere, *lies)
            async with running(Indexer(settings)):
                await until(partial(are_kept, settings, len(lies)), "they are set aside")
                assert [each for each in await retry(settings) if each.settled] == []
                await asyncio.to_thread(stranger.abort_transaction, 30)
                await until(partial(indexed_upto, reader, 3), "the truth is indexed")
    assert [each.reason for each in await kept(settings) if "the gate" not in each.reason] == []
    await dismiss(settings, await kept(settings))
    await judge(settings, 3)


async def is_published(settings: Identified, position: int) -> bool:
    connection = await asyncpg.connect(settings.dsn)
    try:
        return bool(
            await connection.fetchval(
                f"SELECT position + pending_events >= {position} FROM {settings.store}.published"
            )
        )
    finally:
        await connection.close()


async def test_a_record_at_the_position_of_a_pending_tick_is_not_the_tick(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The relay died between the commit in Postgres and that in Kafka; what stands there is somebody else's."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        await append(producer, "Note-1", "b")
    (ours,) = await asyncio.to_thread(records_of, settings)
    ticks = Ticks(connection, settings)
    await ticks.prepare()
    await ticks.take_over()
    assert await ticks.next() is not None
    await ticks.fix()
    await forge(settings, ours, forged(ours, 2))
    await publish(settings, 2)
    assert len([record for record in await asyncio.to_thread(records_of, settings) if record.position == 2]) == 2
    await dismiss(settings, await kept(settings))
    await judge(settings, 2)


async def test_a_forgery_that_nobody_can_tell_from_a_lost_commit_waits_for_a_word(settings: Identified) -> None:
    """Written while no relay runs, right behind the last event: as after a failover that lost commits."""
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        (ours,) = await asyncio.to_thread(records_of, settings)
        await forge(settings, ours, forged(ours, 2))
        async with running(Indexer(settings)):
            await until(partial(are_kept, settings, 1), "it is set aside")
        with pytest.raises(LogMismatchError, match=r"Kafka holds positions up to 2.*gatelog index unreadable"):
            await refused(settings)
        found = await look(settings)
        assert (found.lost, found.kafka_position) == (1, 2), "set aside or not, Kafka holds it"
        await dismiss(settings, await kept(settings))
        await append(producer, "Note-1", "b")
        await publish(settings, 2)
    await judge(settings, 2)
