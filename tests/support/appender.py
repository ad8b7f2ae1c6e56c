"""A client process for crash tests: ``python -m support.appender <mode> <name> <seed>``.

It appends events whose ids follow from its name, one append after the other from several tasks, and prints a line
for each answer: ``<stream> <version of the last event> <text> …``. Killed and started again with the same name, it
repeats the same appends. Settings come from the environment.
"""

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from uuid import NAMESPACE_OID, uuid5

from gatelog.core import logs
from gatelog.core.errors import GatelogError
from gatelog.producer import ANY, Appended, Producer, StreamAppend, retry_on_conflict
from gatelog.reader import Reader
from gatelog.schemas import NewEvent
from support.models import Noted

TASKS = 20
APPENDS = 40
TRANSFERS = 15
STREAMS = 20


def event(text: str) -> NewEvent:
    return NewEvent(Noted(text=text), id=uuid5(NAMESPACE_OID, text))


async def own_streams(producer: Producer, name: str, task: int) -> None:
    """Each task appends to a stream of its own, at exact versions."""
    for number in range(APPENDS):
        text = f"{name}.{task}.{number}"
        done = await producer.append(f"Own-{name}.{task}", [event(text)], expected_version=number)
        print(done.stream, done.version, text, flush=True)


async def hot_streams(producer: Producer, name: str, task: int, seed: int) -> None:
    """All tasks append to the same streams, several at once, in random order."""
    chance = random.Random(f"{seed} {name} {task}")
    for number in range(APPENDS):
        streams = chance.sample(range(STREAMS), chance.randint(1, 4))
        texts = {f"Hot-{stream}": f"{name}.{task}.{number}.{stream}" for stream in streams}
        appends = [StreamAppend(stream, [event(text)], ANY) for stream, text in texts.items()]
        for done in await producer.append_streams(appends):
            print(done.stream, done.version, texts[done.stream], flush=True)


async def transfers(producer: Producer, reader: Reader, name: str, task: int, seed: int) -> None:
    """Each append is decided on the versions of two streams, and says which ones."""
    chance = random.Random(f"{seed} {name} {task}")
    for number in range(TRANSFERS):
        streams = [f"Hot-{stream}" for stream in chance.sample(range(STREAMS), 2)]

        async def decide(streams: Sequence[str] = streams, number: int = number) -> list[tuple[Appended, str]]:
            seen = [await reader.version(stream) for stream in streams]
            texts = [f"saw {v} {name}.{task}.{number}.{s}" for v, s in zip(seen, streams, strict=True)]
            appends = [StreamAppend(s, [event(t)], v) for s, t, v in zip(streams, texts, seen, strict=True)]
            return list(zip(await producer.append_streams(appends), texts, strict=True))

        for done, text in await retry_on_conflict(decide, attempts_max=1000):
            print(done.stream, done.version, text, flush=True)


async def stubborn(producer: Producer, name: str, task: int) -> None:
    """As ``own_streams``, and each append is repeated until it is answered."""
    for number in range(APPENDS):
        text = f"{name}.{task}.{number}"
        while True:
            try:
                done = await producer.append(f"Own-{name}.{task}", [event(text)], expected_version=number)
                break
            except GatelogError as error:
                if not error.retryable:
                    raise
        print(done.stream, done.version, text, flush=True)


async def wall_clock(producer: Producer, name: str, task: int) -> None:
    """Each event has an id of its own making, and says what time it is here."""
    for number in range(APPENDS):
        new = NewEvent(Noted(text=f"{time.time():.0f}"))
        done = await producer.append(f"Own-{name}.{task}", [new], expected_version=number)
        print(done.stream, done.version, new.id, flush=True)


async def of_mode(mode: str, producer: Producer, reader: Reader, name: str, task: int, seed: int) -> None:
    """What one task does."""
    match mode:
        case "own":
            await own_streams(producer, name, task)
        case "hot":
            await hot_streams(producer, name, task, seed)
        case "transfers":
            await transfers(producer, reader, name, task, seed)
        case "stubborn":
            await stubborn(producer, name, task)
        case "wall-clock":
            await wall_clock(producer, name, task)
        case _:
            raise ValueError(mode)


async def main(mode: str, name: str, seed: int) -> None:
    logs.configure(json=True)  # to standard error
    async with Producer.connect() as producer, Reader.connect() as reader:
        for failed in await asyncio.gather(
            *(of_mode(mode, producer, reader, name, task, seed) for task in range(TASKS)), return_exceptions=True
        ):
            if isinstance(failed, GatelogError):
                print("FAILED", type(failed).__name__, failed, flush=True)
            elif failed is not None:
                raise failed


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
