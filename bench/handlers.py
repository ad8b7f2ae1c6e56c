"""The subscription that ``gatelog consume`` runs in the bench: handlers of 5 ms, counted in a file."""

import asyncio
import os
import time
from typing import Final

from bench.append import Measured

from gatelog.reader import Subscription
from gatelog.schemas import RecordedEvent

HANDLER_S: Final = 0.005
REPORT_EVENTS: Final = 100  # of which the whole is a multiple

app = Subscription(os.environ.get("BENCH_SUBSCRIPTION", "bench"))
_report = os.open(os.environ.get("BENCH_REPORT", os.devnull), os.O_WRONLY | os.O_APPEND)
_handled = 0


@app.on(Measured)
async def handle(_event: RecordedEvent[Measured]) -> None:
    """Wait as a handler does that calls a service."""
    global _handled  # noqa: PLW0603 - of this process
    if _handled == 0:
        os.write(_report, f"{time.monotonic()} 0\n".encode())
    await asyncio.sleep(HANDLER_S)
    _handled += 1
    if _handled % REPORT_EVENTS == 0:
        os.write(_report, f"{time.monotonic()} {REPORT_EVENTS}\n".encode())
