"""``gatelog consume``, ``parked`` and ``status``: a subscription as its operators see it."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import members
from support.members import NAME, handled
from support.models import Noted
from support.processes import background, environment, gatelog
from support.waiting import until

from gatelog.console.programs import imported
from gatelog.core.errors import InvalidInputError
from gatelog.core.identity import Identified
from gatelog.producer import ANY, Producer
from gatelog.reader import Subscription
from gatelog.reader.subscriptions.parked_topic import ParkedTopic

pytestmark = [pytest.mark.classic, pytest.mark.usefixtures("relay")]

FAILS_FIRST = """
from pathlib import Path
from gatelog.reader import Failures, Subscription

app = Subscription("work", failures=Failures(attempts_max=2, first_delay_s=0.01))
not_a_subscription = 1

@app.on("Noted")
async def note(event):
    text = event.as_dict()["text"]
    if text == "poison" and not Path("cured").exists():
        raise ValueError("cannot bear it")
    with Path("seen").open("a") as seen:
        seen.write(f"{event.version} {text}\\n")
"""


async def test_parked_events_by_the_command_line(settings: Identified, producer: Producer, tmp_path: Path) -> None:
    (tmp_path / "members_program.py").write_text(FAILS_FIRST)
    own = environment(settings)
    await producer.append("Note-1", [Noted(text=t) for t in ("a", "poison", "b")], expected_version=ANY)
    await producer.append("Note-2", [Noted(text="poison")], expected_version=ANY)

    async def ask(*arguments: str) -> list[dict[str, Any]]:
        done = await asyncio.to_thread(gatelog, arguments, own, tmp_path)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def count() -> int:
        with ParkedTopic(settings, NAME) as topic:
            return len(topic.all())

    async def are_parked(wanted: int) -> None:
        async def are_there() -> bool:
            return await asyncio.to_thread(count) == wanted

        await until(are_there, f"{wanted} events are parked")

    member = members.start(settings, tmp_path)
    try:
        await are_parked(3)
        by_place = {(each["stream"], each["version"]): each for each in await ask("parked", "list", NAME, "--json")}
        poison, follower, other = (by_place[place] for place in (("Note-1", 2), ("Note-1", 3), ("Note-2", 1)))
        assert (poison["reason"], poison["attempts"]) == ("ValueError: cannot bear it", 2)
        assert follower["attempts"] == 0
        (shown,) = await ask("parked", "show", NAME, poison["id"], "--json")
        assert shown["data"] == {"text": "poison"}
        assert shown["headers"]["ce_subject"] == "Note-1"
        assert "cannot bear it" in shown["trace"]
        (status,) = await ask("status", "--json")
        (standing,) = status["subscriptions"]
        assert (standing["name"], standing["is_active"], standing["parked"]) == (NAME, True, 3)
        assert standing["members"][0]["pid"] == member.process.pid
        assert standing["members"][0]["trouble"] is None
        await ask("parked", "drop", NAME, other["id"])
        (tmp_path / "cured").touch()
        await ask("parked", "replay", NAME, "--stream", "Note-1")
        await are_parked(0)
        assert (tmp_path / "seen").read_text().splitlines() == ["1 a", "2 poison", "3 b"]
        missing = await asyncio.to_thread(gatelog, ["parked", "replay", NAME, poison["id"]], own, tmp_path)
        assert (missing.returncode, "is not parked" in missing.stderr) == (10, True)
    finally:
        assert await asyncio.to_thread(member.stop) == 0
    text = await asyncio.to_thread(gatelog, ["status"], own, tmp_path)
    assert "not running, 0 positions behind, 0.0 s; 0 parked" in text.stdout


NEVER_ENDS = """
import asyncio
from pathlib import Path
from gatelog.reader import Subscription

app = Subscription("work", stop_timeout_s=0.1)

@app.on("Noted")
async def note(event):
    while True:
        try:
            Path("called").touch()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""


async def test_a_handler_that_ends_for_nobody_does_not_hold_the_process(
    settings: Identified, producer: Producer, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(NEVER_ENDS)
    await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)

    async def is_called() -> bool:
        return (tmp_path / "called").exists()

    with background(["consume", "program:app"], environment(settings), tmp_path / "log") as running:
        await until(is_called, "the handler runs")
        assert await asyncio.to_thread(running.stop) == 0
    assert "subscription.stop_timeout" in (tmp_path / "log").read_text()


async def test_workers_share_the_partitions_and_one_that_is_killed_is_started_again(
    settings: Identified, producer: Producer, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await members.prepare(connection, settings, tmp_path)

    async def append() -> None:
        for stream in range(30):
            await producer.append(f"Note-{stream}", [Noted(text="x")] * 3, expected_version=ANY)

    await append()
    parent = members.start(settings, tmp_path, "--workers", "2")

    async def member_pids() -> set[int]:
        rows = await connection.fetch(f"SELECT pid FROM {settings.store}.subscription_members")
        return {row["pid"] for row in rows}

    async def both_run() -> bool:
        return len(await member_pids()) == 2

    try:
        await until(both_run, "both workers run")
        victim = min(await member_pids())
        os.kill(victim, signal.SIGKILL)

        async def is_replaced() -> bool:
            return len(await member_pids() - {victim}) == 2

        await until(is_replaced, "another one runs in its place")
        await append()

        async def all_handled() -> bool:
            return len({row[:2] for row in await handled(connection, settings)}) == 180

        await until(all_handled, "everything is handled", timeout=120)
    finally:
        assert await asyncio.to_thread(parent.stop) == 0
    assert await member_pids() <= {victim}, "who ends well takes its row along"


async def test_workers_end_when_their_parent_is_killed(
    settings: Identified, connection: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    """Who starts it anew would have the old workers beside the new ones."""
    await members.prepare(connection, settings, tmp_path)
    parent = members.start(settings, tmp_path, "--workers", "2")

    async def running() -> int:
        return int(await connection.fetchval(f"SELECT count(*) FROM {settings.store}.subscription_members"))

    async def both_run() -> bool:
        return await running() == 2

    async def none_runs() -> bool:
        return await running() == 0

    try:
        await until(both_run, "both workers run")
    finally:
        parent.kill()
    await until(none_runs, "both have ended, and taken their rows along")


def test_what_cannot_be_consumed_is_named(
    settings: Identified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(FAILS_FIRST)
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    done = gatelog(["consume", "shop:app", "shop:app"], environment(settings), tmp_path)
    assert (done.returncode, "named twice" in done.stderr) == (2, True)
    done = gatelog(["consume", "shop:missing"], environment(settings), tmp_path)
    assert done.returncode == 2
    assert "nothing of that name" in done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for target, message in (
        ("shop", "say MODULE:NAME"),
        ("nowhere:app", "there is no module 'nowhere'"),
        ("broken.py:app", "No module named 'no_such_thing'.*broken.py, line 1"),
        ("shop.py:not_a_subscription", "a int, not a Subscription"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            imported(target, Subscription)
    assert imported("shop.py:app", Subscription).name == NAME
