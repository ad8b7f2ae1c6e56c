"""``gatelog index …`` and ``verify`` as an operator meets them."""

import asyncio
import json
from pathlib import Path

from support.kafka import records_of
from support.losses import write
from support.processes import environment, gatelog
from support.reconciling import append, pipeline, publish

from gatelog.core.settings import Settings
from gatelog.producer import Producer


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_from_a_strange_record_to_a_store_that_agrees(settings: Settings, tmp_path: Path) -> None:
    env = environment(settings)

    async def run(*arguments: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(gatelog, arguments, env, tmp_path)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        (ours,) = await asyncio.to_thread(records_of, settings)
        await asyncio.to_thread(write, settings, ours, [{**ours.headers, "ce_position": "first"}])
        (more,) = await append(producer, "Note-1", "b")
        async with pipeline(settings) as reader:
            await reader.indexed([more])

    code, out, _ = await run("verify")
    assert (code, "unreadable in Kafka: 1" in out, "They differ." in out) == (8, True, True)
    code, out, _ = await run("index", "unreadable", "--json")
    number = str(json.loads(out)["id"])
    code, out, _ = await run("index", "show", number)
    assert (code, ["header", "ce_position", "first"] in words(out), ours.value.hex() in out) == (0, True, True)
    code, out, _ = await run("index", "retry")
    assert (code, "0 settled, 1 left." in out) == (9, True)
    code, _, err = await run("index", "dismiss", number, "--because", " ")
    assert (code, "needs a reason" in err) == (2, True)
    assert (await run("index", "dismiss", number, "--because", "a test wrote it"))[0] == 0
    code, _, err = await run("index", "retry", number)
    assert (code, "no open unreadable record" in err) == (2, True)
    code, out, _ = await run("verify", "--from", "1", "--to", "2")
    assert (code, "They agree." in out) == (0, True), out
    code, out, _ = await run("verify", "--json")
    assert (code, json.loads(out)["agree"]) == (0, True), out
    code, _, err = await run("index", "show", "99")
    assert (code, "There is no unreadable record 99" in err) == (2, True)
