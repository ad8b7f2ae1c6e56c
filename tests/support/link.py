"""A network between this process and a namespace of its own, made of packets that are handed over one by one.

Real TCP runs over it, and meets whatever the wire does to it: latency, loss, partitions, flows that are forgotten.
It needs root, ``ip`` and ``/dev/net/tun``, and no kernel module for bad networks.
"""

import asyncio
import fcntl
import os
import random
import secrets
import shutil
import struct
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.passing import passing

_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_PACKET_BYTES_MAX = 65_536
_TCP = 6


@dataclass
class Link:
    """A wire. What it does can be changed while packets are on it."""

    here: int  # file descriptors of its two ends
    there: int
    address: str  # of this process, as seen from there
    within: tuple[str, ...]  # words before a command that is to run there
    chance: random.Random
    delay_s: float = 0.0  # of a packet, in either direction
    loss: float = 0.0  # of packets, 0 to 1
    cut: bool = False  # nothing comes through
    seen: set[bytes] = field(default_factory=set)  # ports there, of all flows until now
    forgotten: set[bytes] = field(default_factory=set)  # ports there, of flows that are dropped for good

    def forget(self) -> None:
        """Drop the flows that there are, as a firewall does that was restarted. New ones pass."""
        self.forgotten |= self.seen

    def hand_over(self, source: int, target: int) -> None:
        """Take what has arrived at one end, and let it arrive at the other, or not."""
        with suppress(BlockingIOError):
            while packet := os.read(source, _PACKET_BYTES_MAX):
                if self._passes(packet, outgoing=source == self.there):
                    asyncio.get_running_loop().call_later(self.delay_s, self._arrive, target, packet)

    def _passes(self, packet: bytes, *, outgoing: bool) -> bool:
        if packet[0] >> 4 != 4 or packet[9] != _TCP:
            return False
        header = (packet[0] & 0x0F) * 4
        port = packet[header : header + 2] if outgoing else packet[header + 2 : header + 4]
        self.seen.add(port)
        return not self.cut and port not in self.forgotten and self.chance.random() >= self.loss

    def _arrive(self, target: int, packet: bytes) -> None:
        with suppress(OSError):  # the wire was taken down meanwhile
            os.write(target, packet)


@asynccontextmanager
async def link(chance: random.Random) -> AsyncIterator[Link]:
    """Yield a network with a namespace at its other end; skip the test where none can be made."""
    name = f"gl{secrets.token_hex(4)}"
    subnet = f"198.18.{secrets.randbelow(256)}"  # reserved for trials of networks
    with _namespace(name), _device(f"{name}h") as here, _device(f"{name}t") as there:
        _ip("addr", "add", f"{subnet}.1", "peer", f"{subnet}.2", "dev", f"{name}h")
        _ip("link", "set", f"{name}h", "up")
        _ip("link", "set", f"{name}t", "netns", name)
        _ip("-n", name, "addr", "add", f"{subnet}.2", "peer", f"{subnet}.1", "dev", f"{name}t")
        _ip("-n", name, "link", "set", f"{name}t", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        wire = Link(here, there, f"{subnet}.1", ("ip", "netns", "exec", name), chance)
        loop = asyncio.get_running_loop()
        loop.add_reader(here, wire.hand_over, here, there)
        loop.add_reader(there, wire.hand_over, there, here)
        try:
            yield wire
        finally:
            loop.remove_reader(here)
            loop.remove_reader(there)


@asynccontextmanager
async def served_at(address: str, dsn: str) -> AsyncIterator[str]:
    """Yield a DSN at ``address`` for a server that listens elsewhere: each connection is passed on."""
    parts = urlsplit(dsn)

    server = await passing(address, 0, parts.hostname or "localhost", parts.port or 5432)
    port = server.sockets[0].getsockname()[1]
    try:
        yield parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{address}:{port}").geturl()
    finally:
        server.close()


@asynccontextmanager
async def reached_at(wire: Link, ports: Sequence[int]) -> AsyncIterator[None]:
    """Let servers that listen on 127.0.0.1 here be reached at the same ports of 127.0.0.1 there, over the wire.

    So a server that tells clients its own address, as a broker does, needs no other one.
    """
    async with AsyncExitStack() as stack:
        pairs = []
        for port in ports:
            dsn = await stack.enter_async_context(served_at(wire.address, f"tcp://@127.0.0.1:{port}"))
            pairs.append(f"{port}:{urlsplit(dsn).port}")
        command = [*wire.within, sys.executable, "-m", "support.passing", wire.address, *pairs]
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, stdout=PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()
            await process.wait()


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    if os.geteuid() != 0 or shutil.which("ip") is None or not _TUN.exists():
        pytest.skip("a network of its own needs root, iproute2's `ip` and /dev/net/tun")
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        yield
    finally:
        _ip("netns", "del", name)


@contextmanager
def _device(name: str) -> Iterator[int]:
    """A network interface whose packets this process reads and writes; it is gone when it is closed."""
    device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN_NO_PI))
        yield device
    finally:
        os.close(device)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
