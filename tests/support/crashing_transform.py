"""A transform in a process of its own, which kills itself at a chosen point of a transaction."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from typing import Any
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from gatelog.core import logs, services
from gatelog.core.settings import Settings
from gatelog.reader import Outgoing, Transform
from gatelog.reader.subscriptions import transform as module
from gatelog.schemas import RecordedEvent
from support.models import Noted

POINTS = ("begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction", "committed")
PARTITIONS = 2
_forks = get_context("forkserver")
_forks.set_forkserver_preload([__name__])


def out_of(settings: Settings) -> str:
    return f"{settings.store}-out"


def upper(settings: Settings) -> Transform:
    transform = Transform("upper", categories=["Note", "Bill"])

    @transform.each
    async def shout(event: RecordedEvent) -> Sequence[Outgoing]:
        assert isinstance(event.data, Noted)
        return [Outgoing(out_of(settings), event.data.text.upper().encode(), str(event.id))]

    return transform


class _Service:
    name = "transform"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        await upper(self._settings).run(stop, self._settings)


def _run(settings: Settings, point: str | None, nth: int) -> None:
    logs.configure(json=True)
    module.BATCH_EVENTS_MAX = 10  # type: ignore[misc] # more transactions, more moments
    left = nth

    class Faulty(Producer):
        def __getattribute__(self, name: str) -> Any:  # noqa: ANN401 - whatever it has
            nonlocal left
            found = super().__getattribute__(name)
            if name == point or (point == "committed" and name == "begin_transaction"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return found

    if point is not None:
        module.Producer = Faulty  # type: ignore[attr-defined] # this is the point
    asyncio.run(services.run_until_signal(_Service(settings)))


@contextmanager
def running(settings: Settings, point: str | None = None, nth: int = 1) -> Iterator[ForkServerProcess]:
    process = _forks.Process(target=_run, args=(settings, point, nth), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def produced(settings: Settings, keys: int) -> Counter[str]:
    """Read until so many different keys were seen, and on to the ends."""
    own = {"group.id": str(uuid4()), "isolation.level": "read_committed", "enable.partition.eof": True}
    consumer = Consumer({**settings.kafka_properties, **own})
    consumer.assign([TopicPartition(out_of(settings), number, 0) for number in range(PARTITIONS)])
    seen: Counter[str] = Counter()
    ended: set[int | None] = set()
    while len(seen) < keys or len(ended) < PARTITIONS:
        message = consumer.poll(60)
        assert message is not None, f"{len(seen)} of {keys} were seen"
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF, error
            ended.add(message.partition())
            continue
        ended.discard(message.partition())
        key = message.key()
        seen[key.decode() if isinstance(key, bytes) else str(key)] += 1
    consumer.close()
    return seen
