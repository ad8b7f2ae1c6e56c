"""Processes of a store that are started again whenever they end, as a supervisor does, and what they ended with."""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from support.forked import Forked

WATCH_INTERVAL_S: Final = 0.2
RESTART_DELAY_S: Final = 0.5
END_TIMEOUT_S: Final = 90.0
_REASON_CHARACTERS: Final = 300


@dataclass
class Member:
    """One process, and whether we have ended it."""

    kind: str
    running: Forked
    is_ours: bool = False
    is_noted: bool = False


@dataclass
class Fleet:
    """``sizes``: how many processes of each kind. ``start``: starts one, with a log of its own."""

    sizes: Mapping[str, int]
    start: Callable[[str, Path], Forked]
    folder: Path
    ended: Counter[str] = field(default_factory=Counter)  # by kind, exit code and reason
    raw: list[str] = field(default_factory=list)  # what no user should see
    members: list[Member] = field(default_factory=list)
    _started: int = 0
    _away: set[str] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it until the block ends."""
        self.members += [self._start(kind) for kind, size in self.sizes.items() for _ in range(size)]
        supervisor = asyncio.create_task(self._supervise())
        try:
            yield
            await self.away_at_once()
        finally:
            supervisor.cancel()
            for member in self.members:
                member.running.signal(signal.SIGKILL)

    def of(self, *kinds: str) -> list[Member]:
        """Return the members of some kinds."""
        return [member for member in self.members if member.kind in kinds]

    def kill(self, *members: Member) -> None:
        """SIGKILL; they are started again."""
        for member in members:
            member.is_ours = True
            member.running.signal(signal.SIGKILL)

    async def freeze(self, seconds: float, *members: Member) -> None:
        """SIGSTOP, for some time."""
        for member in members:
            member.running.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            for member in members:
                member.running.signal(signal.SIGCONT)

    async def stop(self, *members: Member) -> None:
        """SIGTERM, and wait until they have ended; unless their kind is away, they are started again."""
        for member in members:
            member.is_ours = True
            member.running.signal(signal.SIGTERM)
        for member in members:
            await member.running.ended(END_TIMEOUT_S)
            self._note(member)

    @asynccontextmanager
    async def away(self, *kinds: str) -> AsyncIterator[None]:
        """Have no members of some kinds until the block ends."""
        self._away |= set(kinds)
        try:
            await self.stop(*self.of(*kinds))
            yield
        finally:
            self._away -= set(kinds)

    async def away_at_once(self) -> None:
        """Stop everything."""
        self._away |= self.sizes.keys()
        await self.stop(*self.members)

    def _start(self, kind: str) -> Member:
        self._started += 1
        return Member(kind, self.start(kind, self.folder / f"{kind}-{self._started}.log"))

    async def _supervise(self) -> None:
        while True:
            for number, member in enumerate(self.members):
                if member.running.code is not None:
                    self._note(member)
                    if member.kind not in self._away:
                        self.members[number] = self._start(member.kind)
            await asyncio.sleep(WATCH_INTERVAL_S)

    def _note(self, member: Member) -> None:
        """Write down how a member has ended: by a signal or SIGTERM of ours, by an error that is told, or raw."""
        if member.is_noted:
            return
        member.is_noted = True
        code, text = member.running.code, member.running.log.read_text(errors="replace")
        told = [json.loads(line) for line in text.splitlines() if '"service.failed"' in line]
        error = told[-1]["error"] if told else ""
        if error or not (code == 0 or (member.is_ours and code in {-signal.SIGKILL, -signal.SIGTERM})):
            reason = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+", "N", error or "no reason")
            self.ended[f"{member.kind}, exit code {code}: {reason[:_REASON_CHARACTERS]}"] += 1
        if "\nTraceback" in f"\n{text}" or (code not in {0, -signal.SIGKILL, -signal.SIGTERM} and not error):
            self.raw.append(f"{member.running.log.name}, exit code {code}:\n{text[-3000:]}")
