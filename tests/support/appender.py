"""A client process for crash tests: ``python -m support.appender <mode> <name> <seed>``.

It appends events whose ids follow from its name, one append after the other from several tasks, and prints a line
for each answer: ``<stream> <version of the last event> <text> …``. Killed and started again with the same name, it
repeats the same appends. Settings come from the environment.
"""

import asyncio
import random
import sys
from uuid import NAMESPACE_OID, uuid5

from gatelog.core import logs
from gatelog.core.errors import GatelogError
from gatelog.producer import ANY, Producer, StreamAppend
from gatelog.schemas import NewEvent
from support.models import Noted

TASKS = 20
APPENDS = 40
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


async def main(mode: str, name: str, seed: int) -> None:
    logs.configure(json=True)  # to standard error
    async with Producer.connect() as producer:
        work = [
            own_streams(producer, name, task) if mode == "own" else hot_streams(producer, name, task, seed)
            for task in range(TASKS)
        ]
        for failed in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(failed, GatelogError):
                print("FAILED", type(failed).__name__, failed, flush=True)
            elif failed is not None:
                raise failed


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
