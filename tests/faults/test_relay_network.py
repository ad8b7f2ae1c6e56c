"""A relay whose network is bad, or cut: nobody resets its connections, packets just do not arrive."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from support.link import Link, link, reached_at
from support.processes import Background, background, environment
from support.trial import Row, busy, judge, relay

from gatelog.core.settings import Settings
from gatelog.producer import Producer


@asynccontextmanager
async def away(settings: Settings, chance: random.Random, log: Path) -> AsyncIterator[tuple[Link, Background]]:
    """A relay at the other end of a network. Postgres and Kafka are there under the addresses that they have here."""
    kafka = settings.kafka["bootstrap.servers"].rpartition(":")[2]
    ports = [urlsplit(settings.dsn).port or 5432, int(kafka)]
    async with link(chance) as wire, reached_at(wire, ports):
        with background(["relay"], environment(settings), log, within=wire.within) as process:
            yield wire, process


async def test_cut_off_it_is_replaced_and_publishes_nothing_when_it_is_back(
    settings: Settings, producer: Producer, chance: random.Random, long: bool, tmp_path: Path
) -> None:
    row = Row(settings)
    log = tmp_path / "relay.log"
    async with busy(settings, producer) as clients, away(settings, chance, log) as (wire, cut_off):
        await row.moves(20)
        for _ in range(10 if long else 1):
            with relay(settings) as other:
                epoch = await row.epoch()
                wire.cut = True
                await row.taken_over_since(epoch)
                await row.moves(50)
                wire.cut = False
                await row.moves(50)
                assert other.exitcode is None
        await row.moves(50)  # the one that was cut off has taken over again
        assert cut_off.process.poll() is None, cut_off.log.read_text()
        assert await asyncio.to_thread(cut_off.stop) == 0  # the wire is in this loop's hands
    await judge(settings, clients)


async def test_latency_loss_and_partitions_slow_it_down_and_no_more(
    settings: Settings, producer: Producer, chance: random.Random, long: bool, tmp_path: Path
) -> None:
    """100 ms there and back, 5 % of packets lost in each direction, and at times all of them; it is alone."""
    row = Row(settings)
    log = tmp_path / "relay.log"
    async with busy(settings, producer) as clients, away(settings, chance, log) as (wire, process):
        await row.moves()
        wire.delay_s, wire.loss = 0.05, 0.05
        for _ in range(10 if long else 2):
            await row.moves(20)
            wire.cut = True
            await asyncio.sleep(chance.uniform(0.5, 3))  # as long as a partition lasts
            wire.cut = False
        await row.moves(20)
        wire.delay_s = wire.loss = 0.0
        await row.moves(50)
        assert process.process.poll() is None, process.log.read_text()
    await judge(settings, clients)
