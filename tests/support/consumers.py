"""The consumers of a sweep: ``gatelog consume support.consumers:NAME``. Settings come from the environment.

What they handle they write down where it is judged: projections in their read models, the subscription in a file, the
transform in a topic.
"""

import asyncio
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

from gatelog.core.settings import Settings
from gatelog.reader import Failures, Outgoing, Subscription, Transform
from gatelog.schemas import RecordedEvent
from support.consumed import FOLDER, HANDLED, HEALED, POISON, VERSION, out_of
from support.models import Noted
from support.projections import keeping

_settings = Settings.load()
_folder = Path(os.environ[FOLDER])
_handled = os.open(_folder / HANDLED, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_version = int(os.environ[VERSION])


shared = keeping("shared", _settings, f"version {_version}", version=_version)
ordered = keeping("ordered", _settings, f"version {_version}", version=_version, order="total")
app = Subscription("app", failures=Failures(attempts_max=2, first_delay_s=0.01))
copy = Transform("copy")


@app.on(Noted)
async def note(event: RecordedEvent) -> None:
    """Write it down, in one call: whatever happens to this process, there are whole lines."""
    assert isinstance(event.data, Noted)
    kind, _, number = event.data.text.partition(" ")
    if kind == POISON and int(number) > int((_folder / HEALED).read_text()):
        raise ValueError(event.data.text)
    await asyncio.sleep(random.uniform(0, 0.01))
    os.write(_handled, f"{event.stream} {event.version}\n".encode())


@copy.each
async def place(event: RecordedEvent) -> Sequence[Outgoing]:
    """Say where it was."""
    return [Outgoing(out_of(_settings), json.dumps([event.stream, event.version]).encode(), event.stream)]
