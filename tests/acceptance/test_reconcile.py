"""``gatelog reconcile`` as an operator meets it, from the refusal of the relay to the repair."""

import json
from functools import partial
from pathlib import Path

from support.models import Noted
from support.processes import environment, gatelog
from support.reconciling import append, indexed_upto, pipeline, publish
from support.restores import dump, restore
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.producer import Producer


async def test_from_the_relays_refusal_to_the_repair(settings: Settings, tmp_path: Path) -> None:
    env = environment(settings)
    async with Producer.connect(settings) as producer:
        await append(producer, "Note-1", "a")
        await publish(settings, 1)
        assert "They agree: nothing to do" in gatelog(["reconcile"], env, tmp_path).stdout
        await dump(settings, tmp_path / "backup.sql")
        await append(producer, "Note-1", "b")
        await publish(settings, 2)
    await restore(settings, tmp_path / "backup.sql")
    async with Producer.connect(settings) as producer:
        (conflicting,) = await append(producer, "Note-1", "b'")
        (kept,) = await append(producer, "Note-2", "c")

    relay = gatelog(["relay"], env, tmp_path)
    assert relay.returncode == 8
    assert "run: gatelog reconcile" in relay.stderr

    dry = gatelog(["reconcile"], env, tmp_path)
    assert dry.returncode == 8, dry.stderr
    assert "1 events, for example Note-1@2" in dry.stdout
    assert "up to position 2" in dry.stdout
    assert "`gatelog reconcile --apply --drop-conflicting`" in dry.stdout
    report = json.loads(gatelog(["reconcile", "--json"], env, tmp_path).stdout)
    assert (report["lost"], report["conflicting"], report["due"], report["applied"]) == (1, 1, 1, False)

    refused = gatelog(["reconcile", "--apply"], env, tmp_path)
    assert refused.returncode == 8
    assert "--drop-conflicting" in refused.stderr
    assert "Traceback" not in refused.stderr

    done = gatelog(["reconcile", "--apply", "--drop-conflicting"], env, tmp_path)
    assert done.returncode == 0, done.stderr
    (file, (dropped,)) = _dropped(tmp_path)
    assert file in done.stdout
    assert (dropped["id"], dropped["stream"], dropped["data"]) == (str(conflicting), "Note-1", {"text": "b'"})
    assert "They agree" in gatelog(["reconcile"], env, tmp_path).stdout

    async with pipeline(settings) as reader:
        await until(partial(indexed_upto, reader, 3), "the kept event is indexed")
        events = [event async for event in reader.all()]
        assert events[-1].id == kept
        assert [event.data for event in events] == [Noted(text="a"), Noted(text="b"), Noted(text="c")]
        active = gatelog(["reconcile"], env, tmp_path)
        assert active.returncode == 6
        assert "Stop every `gatelog relay` and `gatelog run`" in active.stderr


def _dropped(folder: Path) -> tuple[str, list[dict[str, object]]]:
    (file,) = folder.glob("gatelog-dropped-*.jsonl")
    return str(file), [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_drop_conflicting_alone_is_bad_input(settings: Settings, tmp_path: Path) -> None:
    refused = gatelog(["reconcile", "--drop-conflicting"], environment(settings), tmp_path)
    assert refused.returncode == 2
    assert "--apply" in refused.stderr
