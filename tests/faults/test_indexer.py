"""Indexers that are killed and frozen while others work: each event once, rows and offsets agree."""

import asyncio
import os
import random
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import asyncpg
from support.indexers import indexer, is_frozen
from support.kafka import records_of
from support.models import Noted
from support.reconciling import indexed_upto
from support.running import running
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer import ANY, Producer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay
from gatelog.reader import Reader

CATEGORIES = 3


class Appending:
    """Appends to streams of several topics until it is told to stop."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._stop = asyncio.Event()
        self.events = 0

    async def run(self) -> None:
        while not self._stop.is_set():
            stream = f"Note{self.events % CATEGORIES}-{self.events % 11}"
            await self._producer.append(stream, [Noted(text="x")], expected_version=ANY)
            self.events += 1
            await asyncio.sleep(0.005)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task


async def judge(settings: Settings, events: int) -> None:
    """The index is what Kafka holds, each event once; offsets point behind the last record; nothing was set aside."""
    async with running(Relay(settings), Indexer(settings)), Reader.connect(settings) as reader:
        await until(partial(indexed_upto, reader, events), f"{events} events are indexed")
        found = [(event.position, event.id, event.stream, event.version) async for event in reader.all()]
    records = await asyncio.to_thread(records_of, settings)
    assert found == sorted((r.position, r.event_id, r.key, int(r.headers["ce_streamversion"])) for r in records), (
        "the index is what Kafka holds"
    )
    assert len(found) == events
    connection = await asyncpg.connect(settings.dsn)
    rows = await connection.fetch(f"SELECT topic, partition, next_offset FROM {settings.store}.index_offsets")
    aside = await connection.fetchval(f"SELECT count(*) FROM {settings.store}.unreadable_records")
    await connection.close()
    ends = {(r.topic, r.partition): r.offset + 1 for r in records}  # in offset order: the last one stays
    assert {(row["topic"], row["partition"]): row["next_offset"] for row in rows if row["next_offset"]} == ends
    assert len(rows) == CATEGORIES * settings.topic_partitions, "one offset a partition"
    assert aside == 0


def said(log: Path) -> str:
    return log.read_text(encoding="utf-8")


async def test_killed_at_any_moment_while_others_come_and_go(
    settings: Settings, producer: Producer, chance: random.Random, long: bool, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"index_rows_max": 7})  # many transactions
    with ExitStack() as stack:
        alive = [stack.enter_context(indexer(small, tmp_path / "log")) for _ in range(2)]
        async with running(Relay(settings), OutboxKeeper(settings)), Appending(producer) as appending:
            for _ in range(200 if long else 6):
                await asyncio.sleep(chance.uniform(0, 2))  # the moment is what is random here
                victim = chance.choice(alive)
                victim.kill()
                alive.remove(victim)
                alive.append(stack.enter_context(indexer(small, tmp_path / "log")))
        for process in alive:
            process.kill()
    await judge(settings, appending.events)


async def test_frozen_past_the_session_timeout_and_awake_again(
    settings: Settings, producer: Producer, long: bool, tmp_path: Path
) -> None:
    """It has records in hand that another has written meanwhile: it writes nothing, says so, and joins again."""
    events = 0
    async with running(Relay(settings), OutboxKeeper(settings)), Reader.connect(settings) as reader:
        for nth in range(10 if long else 1):
            log = tmp_path / f"zombie {nth}"
            with indexer(settings, log, freeze_at_write=3) as zombie:
                async with Appending(producer) as appending:
                    await is_frozen(zombie)
                events += appending.events
                with indexer(settings, tmp_path / "other"):
                    await until(partial(indexed_upto, reader, events), "the other one takes over")
                    assert "stale" not in said(log)
                    assert zombie.pid is not None
                    os.kill(zombie.pid, signal.SIGCONT)

                    async def is_refused(log: Path = log) -> bool:
                        return "assignment is stale. It wrote nothing" in said(log)

                    await until(is_refused, "the zombie is refused")
                    more = await producer.append("Note0-1", [Noted(text="x")], expected_version=ANY)
                    await reader.indexed(more.event_ids)
                    events += 1
                assert "record." not in said(log), "it met nothing that it had to set aside"
    await judge(settings, events)
