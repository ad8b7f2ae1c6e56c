"""A store that is restored and reconciled: what tests of it share."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import asyncpg

from gatelog.console.republishing import run as run_republish
from gatelog.core.services import run_all
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.findings import Findings
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.reconcile import reconciliation
from gatelog.producer.relay import Relay
from gatelog.producer.republish import Plan
from gatelog.reader import Reader
from support.kafka import Seen, records_of
from support.models import Noted
from support.running import running
from support.waiting import until


async def append(producer: Producer, stream: str, *texts: str) -> list[UUID]:
    done = [await producer.append(stream, [Noted(text=text)], expected_version=ANY) for text in texts]
    return [each.event_ids[0] for each in done]


@asynccontextmanager
async def pipeline(settings: Settings) -> AsyncIterator[Reader]:
    services = (Relay(settings), OutboxKeeper(settings), Indexer(settings))
    async with Reader.connect(settings) as reader, running(*services):
        yield reader


async def indexed_upto(reader: Reader, position: int) -> bool:
    return await reader.frontier() >= position


async def publish(settings: Settings, position: int) -> None:
    async with pipeline(settings) as reader:
        await until(partial(indexed_upto, reader, position), f"position {position} is indexed")


async def refused(settings: Settings) -> None:
    async with asyncio.timeout(60):
        await run_all(asyncio.Event(), Relay(settings))


async def look(settings: Settings) -> Findings:
    async with reconciliation(settings) as made:
        return await made.look()


async def repair(settings: Settings, dropped: list[asyncpg.Record] | None = None) -> Findings:
    async def keep(rows: Sequence[asyncpg.Record]) -> None:
        assert dropped is not None
        dropped.extend(rows)

    async with reconciliation(settings) as made:
        return await made.apply(keep if dropped is not None else None)


async def republish(settings: Settings) -> Plan:
    """As the command does."""
    return (await run_republish(settings, lambda *_: None, apply=True))[0]


async def damage_witness(settings: Settings) -> None:
    """As if the tables had been restored once more."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"UPDATE {settings.store}.restore_witness SET xid = '3'")
    await connection.close()


async def heal_witness(settings: Settings) -> None:
    """As if files had been restored, and not rows."""
    connection = await asyncpg.connect(settings.dsn)
    await connection.execute(f"UPDATE {settings.store}.restore_witness SET xid = pg_current_xact_id()")
    await connection.close()


async def published(settings: Settings, number: int) -> list[Seen]:
    """Let a relay run, and no indexer, until Kafka holds so many records."""
    async with running(Relay(settings)):

        async def are_there() -> bool:
            return len(await asyncio.to_thread(records_of, settings)) == number

        await until(are_there, f"{number} records are in Kafka")
    return await asyncio.to_thread(records_of, settings)
