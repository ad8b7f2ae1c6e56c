"""Client processes that append (see ``support.appender``), what they were told, and what the streams hold."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from gatelog.core.settings import Settings
from gatelog.reader import Reader
from support.models import Noted
from support.processes import environment

TESTS = Path(__file__).parents[1]
Answers = dict[tuple[str, int], str]  # stream and version: text


@asynccontextmanager
async def appender(
    settings: Settings, mode: str, name: str, seed: int, *, within: Sequence[str] = (), **more: str
) -> AsyncIterator[Process]:
    """Run one that does not outlive the block. ``within``: words before its command. ``more``: its environment."""
    env = environment(settings, PYTHONPATH=str(TESTS), **more)
    command = [*within, sys.executable, "-m", "support.appender", mode, name, str(seed)]
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def answers_of(process: Process, upto: int | None = None) -> Answers:
    """Read what a process was told, to its end or up to a number of answers."""
    assert process.stdout is not None
    answers: Answers = {}
    while (upto is None or len(answers) < upto) and (line := await process.stdout.readline()):
        stream, version, text = line.decode().strip().split(maxsplit=2)
        assert stream != "FAILED", text
        answers[stream, int(version)] = text
    return answers


async def stored(reader: Reader, connection: "asyncpg.Connection[asyncpg.Record]", store: str) -> Answers:
    """Read every stream that the gate knows; its version must be that of its events."""
    found: Answers = {}
    for row in await connection.fetch(f"SELECT stream, version FROM {store}.streams"):
        events = [event async for event in reader.stream(row["stream"])]
        assert [event.version for event in events] == list(range(1, row["version"] + 1)), row["stream"]
        for event in events:
            assert isinstance(event.data, Noted)
            found[event.stream, event.version] = event.data.text
    return found
