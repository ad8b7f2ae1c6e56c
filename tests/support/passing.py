"""Passes TCP connections on: ``python -m support.passing ADDRESS PORT:PORT_THERE …`` listens on 127.0.0.1."""

import asyncio
import sys
from contextlib import suppress

_CHUNK_BYTES = 65_536


async def passing(address: str, port: int, to_address: str, to_port: int) -> asyncio.Server:
    """Listen, and pass each connection on."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(to_address, to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))

    return await asyncio.start_server(pass_on, address, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(address: str, pairs: list[str]) -> None:
    """Pass ports of this machine on to those of another, until killed."""
    for pair in pairs:
        here, there = map(int, pair.split(":"))
        await passing("127.0.0.1", here, address, there)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
