"""The worked example, and its events through ``gatelog schema replay``, as a deployment would run it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.processes import TIMEOUT_S, environment, gatelog

from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.reader import Reader
from gatelog.schemas import Event
from gatelog.schemas.postgres_registry import PostgresRegistry

EXAMPLES = Path(__file__).parents[2] / "examples" / "evolving"


async def test_programs_of_six_versions_work_side_by_side(settings: Settings) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(EXAMPLES / "run.py")],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    blocks = done.stdout.split("\nRead by version ")[1:]
    readers = [block.splitlines()[1:] for block in blocks]
    assert [sum("cannot" not in line for line in lines) for lines in readers] == [3, 3, 4, 7, 7, 9]
    newest = readers[-1]
    assert newest[0] == "  1  OrderPlaced  {'buyer': 'ann', 'quantity': 1, 'channel': 'WEB', 'note': ''}"
    assert newest[1] == "  1 part 2  DiscountGranted  {'percent': 10}"
    assert "'channel': 'OTHER'" in readers[3][4], "version 4 does not know the channel of version 5"
    assert "No default value for field customer" in readers[0][2]
    assert "long is not int" in readers[2][3]


Done = subprocess.CompletedProcess[str]


def _model(**fields: Any) -> Any:  # noqa: ANN401 - a class that only exists in here
    class Bought(Event, event_type="replay.Bought"):
        __annotations__ = fields

    return Bought


_MODELS = """
from typing import Any
from gatelog.schemas import Event, Part, upcast

class Bought(Event, event_type="replay.Bought"):
    what: str
    count: int

class Gift(Event, event_type="replay.Gift"):
    what: str
"""
_UPCASTER = """
@upcast(Bought, from_version=1, into=[Bought, Gift])
def counted(payload: dict[str, Any]) -> list[Part]:
    number = int(payload["count"])
    return [Part(Bought, {"what": payload["what"], "count": number})] + [Part(Gift, {"what": "pen"})] * (number > 9)
"""


async def _replayed(settings: Settings, tmp_path: Path, models: str, *more: str) -> Done:
    (tmp_path / "newest.py").write_text(models, encoding="utf-8")
    arguments = ["schema", "replay", "--models", "newest", *more]
    return await asyncio.to_thread(gatelog, arguments, environment(settings), tmp_path)


@pytest.fixture
async def bought(settings: Settings, producer: Producer, reader: Reader, pipeline: None) -> None:
    model = _model(what=str, count=str)
    events = [model(what="cup", count=str(number)) for number in range(1, 12)]
    done = await producer.append("Cart-1", [*events, model(what="cup", count="a dozen")], expected_version=ANY)
    await reader.indexed(done.event_ids)


async def test_replay_tells_what_would_fail(settings: Settings, bought: None, tmp_path: Path) -> None:
    done = await _replayed(settings, tmp_path, _MODELS, "--json", "--sample", "2")
    assert done.returncode == 11, done.stderr
    found = json.loads(done.stdout)
    assert found["types"] == {"replay.Bought": {"read": 12, "failed": 12}, "replay.Gift": {"read": 0, "failed": 0}}
    assert len(found["failures"]) == 2
    done = await _replayed(settings, tmp_path, _MODELS + _UPCASTER)
    assert done.returncode == 11, done.stderr
    assert "replay.Bought  12 events, 1 FAILED" in done.stdout
    assert "Cart-1@12" in done.stdout
    assert "ValueError: invalid literal for int() with base 10: 'a dozen'" in done.stdout
    whole = _UPCASTER.replace('int(payload["count"])', 'int(payload["count"].replace("a dozen", "12"))')
    done = await _replayed(settings, tmp_path, _MODELS + whole, "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout) == {
        "types": {"replay.Bought": {"read": 12, "failed": 0}, "replay.Gift": {"read": 0, "failed": 0}},
        "parts": 3,
        "failures": [],
    }
    async with postgres.pool(settings.dsn, settings.store, "test", 1) as pool:
        assert await PostgresRegistry(settings, pool).subjects() == ["replay.Bought"]
        assert len(await PostgresRegistry(settings, pool).versions("replay.Bought")) == 1


async def test_replay_says_what_it_needs(settings: Settings, tmp_path: Path) -> None:
    done = await _replayed(settings, tmp_path, _MODELS, "Nobody")
    assert done.returncode == 11
    assert "Nobody: not defined in newest. Defined: replay.Bought, replay.Gift." in done.stderr
