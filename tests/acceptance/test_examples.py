"""The programs in ``examples/``, run as they are."""

import asyncio
import subprocess
import sys
from pathlib import Path

from support.processes import TIMEOUT_S, environment

from gatelog.core.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"


async def test_tickets_sells_no_seat_twice(settings: Settings) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(EXAMPLES / "tickets.py")],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    seats = [line.rpartition("seat ")[2] for line in done.stdout.splitlines()]
    assert sorted(seats) == sorted([*map(str, range(1, 13)), *["none: sold out"] * 8])
