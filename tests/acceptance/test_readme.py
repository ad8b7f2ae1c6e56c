"""The example of the README, run as it stands there."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from support.processes import TIMEOUT_S, environment

from gatelog.core.settings import Settings

README = Path(__file__).parents[2] / "README.md"


async def test_readme_example(settings: Settings, pipeline: None, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    program = tmp_path / "example.py"
    program.write_text(example, encoding="utf-8")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(program)],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Order-42 1 customer='ann' total=Decimal('9.90')",
        "position [1]",
        "1 Order-42 {'customer': 'ann', 'total': Decimal('9.90')}",
    ]
