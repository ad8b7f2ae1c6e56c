"""What is printed when a user's code fails: what happened, what caused it, where; for people and for programs."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.models import Noted
from support.processes import TIMEOUT_S, environment, gatelog
from support.projections import Connection

from gatelog.core.settings import Settings
from gatelog.producer import ANY, Producer

pytestmark = pytest.mark.usefixtures("relay")

LINE_CHARACTERS_MAX = 100_000
PROGRAM = """
from contextlib import suppress

import asyncpg

from gatelog.reader import Failures, Projection, Subscription

bills = Subscription("bills", failures=Failures(attempts_max=2, first_delay_s=0.01, then="stop"))
totals = Projection("totals", categories=["Note"])


@bills.on("Noted")
async def bill(event):
    try:
        {}["ann"]
    except KeyError as error:
        raise ValueError("no such customer" + "!" * 6_000_000) from error


@totals.batch
async def add(connection, events):
    with suppress(asyncpg.DivisionByZeroError):
        await connection.execute("SELECT 1/0")


@totals.set_up
async def tables(connection):
    pass
"""


def on_terminal(arguments: list[str], own: Mapping[str, str], folder: Path) -> str:
    """Return what ``gatelog …`` writes to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "gatelog.console", *arguments],
        env=own,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        found = b""
        try:
            while part := os.read(ours, 65_536):
                found += part
        except OSError:  # Linux' way to say that the other end is closed
            pass
        os.close(ours)
        process.wait(TIMEOUT_S)
    return found.decode().replace("\r\n", "\n")


async def test_a_projection_that_fails_tells_the_database_error_behind_it(
    settings: Settings, producer: Producer, rows: Connection, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)
    own = environment(settings)
    await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)
    prepared = await asyncio.to_thread(gatelog, ["projection", "prepare", "shop.py:totals"], own, tmp_path)
    assert prepared.returncode == 0, prepared.stderr
    run = ["projection", "run", "shop.py:totals"]
    logged = await asyncio.to_thread(gatelog, run, own, tmp_path)
    assert logged.returncode == 9
    last = json.loads(logged.stderr.splitlines()[-1])
    assert (last["event"], last["level"], last["exit_code"]) == ("service.failed", "error", 9)
    assert "'Note-1' version 1" in last["error"]
    assert "DivisionByZeroError: division by zero" in last["error"]
    assert 'shop.py", line' in last["trace"]
    shown = await asyncio.to_thread(on_terminal, run, own, tmp_path)
    _, error, behind = shown.partition("error: The function of 'totals' failed on Noted (stream 'Note-1' version 1")
    assert error
    assert "DivisionByZeroError: division by zero" in behind
    assert 'shop.py", line' in behind


async def test_a_handler_that_fails_is_told_with_its_causes_and_never_at_length(
    settings: Settings, producer: Producer, rows: Connection, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)
    own = environment(settings)
    await producer.append("Note-1", [Noted(text="x")], expected_version=ANY)
    run = ["consume", "shop.py:bills"]
    logged = await asyncio.to_thread(gatelog, run, own, tmp_path)
    assert logged.returncode == 1
    assert max(map(len, logged.stderr.splitlines())) < LINE_CHARACTERS_MAX
    lines = [json.loads(line) for line in logged.stderr.splitlines()]
    by_event = {line["event"]: line for line in lines}
    retry, stopped, last = by_event["event.retry"], by_event["subscription.stopped_by_handler"], lines[-1]
    assert last["event"] == "service.failed"
    for text in (retry["reason"], stopped["reason"], last["error"]):
        assert text.startswith("ValueError: no such customer!")
        assert "characters cut" in text
        assert text.endswith("caused by KeyError: 'ann'")
    for trace in (retry["trace"], stopped["trace"], last["trace"]):
        assert '{}["ann"]' in trace
    shown = await asyncio.to_thread(on_terminal, run, own, tmp_path)
    assert max(map(len, shown.splitlines())) < LINE_CHARACTERS_MAX
    _, error, behind = shown.partition("\nerror: ValueError: no such customer!")
    assert error
    assert "\n  caused by KeyError: 'ann'" in behind
    assert '{}["ann"]' in behind
