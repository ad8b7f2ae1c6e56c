"""An order event that lives through five changes, and programs of all versions side by side.

Each version of the order service (v1.py to v6.py) is a process of its own, and all run at the same time. One after
the other they append to one stream; then all read it. Needs a store (``gatelog up && gatelog init``) and no relay:
``python examples/evolving/run.py``.
"""

import asyncio
import importlib
import json
import sys
from typing import Any
from uuid import uuid4

from gatelog.core.errors import UndecodableRecordError
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import Event, RecordedEvent

VERSIONS = range(1, 7)


async def program(version: int, stream: str) -> None:
    """Be a program of this version: append at the first line of input, read at the second."""
    example: list[Event] = importlib.import_module(f"v{version}").EXAMPLE
    async with Producer.connect() as producer:
        await asyncio.to_thread(sys.stdin.readline)
        await producer.append(stream, example, expected_version=ANY)
    print("appended", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with Reader.connect() as reader:
        async for event in reader.stream(stream):
            print(json.dumps(described(event)))


def described(event: RecordedEvent) -> dict[str, Any]:
    """Return what a program makes of an event, as JSON."""
    found: dict[str, Any] = {"at": event.version, "type": event.type.rpartition(".")[2], "part": event.part}
    try:
        data = event.data
    except UndecodableRecordError as error:
        return {**found, "error": str(error)}
    return {**found, "data": data.model_dump(mode="json") if isinstance(data, Event) else {"unknown type": data}}


async def main() -> None:
    """Let all versions write, then all read, and print what each made of each event."""
    stream = f"Order-{uuid4()}"
    programs = [await _start(version, stream) for version in VERSIONS]
    for process in programs:
        await _tell(process)
        await _line(process)
    for version, process in zip(VERSIONS, programs, strict=True):
        await _tell(process)
        print(f"\nRead by version {version}")
        while line := await _line(process):
            event = json.loads(line)
            what = event.get("data") or f"cannot: {event['error']}"
            part = f" part {event['part']}" if event["part"] > 1 else ""
            print(f"  {event['at']}{part}  {event['type']}  {what}")
        if await process.wait() != 0:
            raise SystemExit(f"version {version} failed")


async def _start(version: int, stream: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(version), stream, stdin=pipe, stdout=pipe
    )


async def _tell(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    await process.stdin.drain()


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


if __name__ == "__main__":
    asyncio.run(program(int(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 1 else main())
