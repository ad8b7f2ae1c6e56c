"""``gatelog projection`` and the example, from outside."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import asyncpg
from support.processes import TIMEOUT_S, background, environment, gatelog
from support.projections import Connection
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer
from gatelog.schemas import Event

PROGRAM = """
from gatelog.reader import Projection

counts = Projection("counts", schema="{schema}")


@counts.set_up
async def tables(connection):
    await connection.execute("CREATE TABLE counted (position bigint)")


@counts.batch
async def count(connection, events):
    await connection.executemany("INSERT INTO counted VALUES ($1)", [(event.position,) for event in events])
"""


class Counted(Event):
    number: int


async def test_a_projection_is_prepared_run_rebuilt_and_listed(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, tmp_path: Path
) -> None:
    schema = f"{settings.store}_counts"
    (tmp_path / "program.py").write_text(PROGRAM.replace("{schema}", schema))
    own = environment(settings)
    target = "program.py:counts"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return gatelog(["projection", *arguments], own, tmp_path)

    early = await asyncio.to_thread(run, "run", target)
    assert early.returncode == 4
    assert "gatelog projection prepare" in early.stderr
    assert (await asyncio.to_thread(run, "prepare", target)).returncode == 0
    for number in range(20):
        await producer.append(f"Count-{number}", [Counted(number=number)], expected_version=ANY)
    with background(["projection", "run", target], own, tmp_path / "log") as working:

        async def is_counted() -> bool:
            return bool(await rows.fetchval(f'SELECT count(*) = 20 FROM "{schema}".counted'))

        await until(is_counted, "everything is counted")
        rebuilt = await asyncio.to_thread(run, "rebuild", target)
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert "live" in rebuilt.stdout
        await asyncio.to_thread(working.stop)
        assert working.process.returncode == 0
    listed = [json.loads(line) for line in (await asyncio.to_thread(run, "list", "--json")).stdout.splitlines()]
    assert [(row["build"], row["state"], row["events"]) for row in listed] == [(1, "retired", 20), (2, "live", 20)]
    shown = await asyncio.to_thread(run, "status", target)
    assert "about 0 events" in shown.stdout
    assert (await asyncio.to_thread(run, "drop", target, "--build", "2")).returncode == 2
    assert (await asyncio.to_thread(run, "drop", target, "--build", "1")).returncode == 0
    assert (await asyncio.to_thread(run, "run", "program.py:nothing")).returncode == 2


BOTH = """
from gatelog.reader import Projection, Subscription

counts = Projection("both", schema="{schema}")
app = Subscription("beside")


@counts.set_up
async def tables(connection):
    await connection.execute("CREATE TABLE counted (position bigint)")


@counts.batch
async def count(connection, events):
    await connection.executemany("INSERT INTO counted VALUES ($1)", [(event.position,) for event in events])


@app.on("Counted")
async def note(event):
    with open("noted", "a") as noted:
        noted.write(f"{event.position}\\n")
"""


async def test_consume_runs_subscriptions_and_projections_side_by_side(
    settings: Settings, producer: Producer, pipeline: None, rows: Connection, tmp_path: Path
) -> None:
    schema = f"{settings.store}_both"
    (tmp_path / "both.py").write_text(BOTH.replace("{schema}", schema))
    own, targets = environment(settings), ("both:app", "both.py:counts")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return gatelog(list(arguments), own, tmp_path)

    refused = await asyncio.to_thread(run, "consume", "both:counts", "--concurrency", "3")
    assert (refused.returncode, "--concurrency" in refused.stderr) == (2, True)
    early = await asyncio.to_thread(run, "consume", *targets)
    assert (early.returncode, "gatelog projection prepare" in early.stderr) == (4, True), "one that fails ends all"
    assert (await asyncio.to_thread(run, "projection", "prepare", "both:counts")).returncode == 0
    for number in range(20):
        await producer.append(f"Count-{number}", [Counted(number=number)], expected_version=ANY)
    with background(["consume", *targets, "--workers", "2"], own, tmp_path / "log") as working:

        async def is_all_there() -> bool:
            counted = await rows.fetchval(f'SELECT count(DISTINCT position) FROM "{schema}".counted')
            noted = (tmp_path / "noted").read_text().split() if (tmp_path / "noted").exists() else []
            return bool(counted == 20 == len(set(noted)))

        await until(is_all_there, "both have all")
        await asyncio.to_thread(working.stop)
        assert working.process.returncode == 0


async def test_the_example_adds_up(settings: Settings, pipeline: None) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(Path(__file__).parents[2] / "examples" / "totals.py")],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    try:
        assert done.returncode == 0, done.stderr
        told = [line for line in done.stdout.splitlines() if line.startswith(("ann", "bob", "cat"))]
        assert told == ["ann 1135", "bob 1145", "cat 1155"]
    finally:
        connection = await asyncpg.connect(settings.dsn)
        await connection.execute("DROP SCHEMA IF EXISTS totals CASCADE")
        await connection.close()
