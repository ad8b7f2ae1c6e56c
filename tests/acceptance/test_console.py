"""The command line as users and scripts meet it: processes, exit codes, one clear error each."""

import json
import signal
from pathlib import Path

import pytest
from support.processes import background, environment, gatelog
from support.waiting import until

from gatelog.core.settings import Settings
from gatelog.reader import Reader

SCHEMA = {
    "type": "record",
    "name": "OrderPlaced",
    "fields": [
        {"name": "customer", "type": "string"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    ],
}
PLACED = '{"customer": "ann", "total": "9.90"}'

STUCK = """
import ctypes, pathlib
lock, of = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(128)
lock(of)
pathlib.Path("stuck").touch()
lock(of)
"""


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    return path


def test_append_and_read(settings: Settings, schema: Path, tmp_path: Path) -> None:
    env = environment(settings)
    first = ["append", "Order-42", "OrderPlaced", PLACED, "--expect", "no-stream", "--schema", str(schema)]
    assert gatelog(first, env, tmp_path).stdout.startswith("Order-42@1  ")
    conflict = gatelog(first, env, tmp_path)
    assert conflict.returncode == 5
    assert conflict.stderr.count("\n") == 1
    assert "expected no stream, but it is at version 1" in conflict.stderr
    # The store knows the schema now, and standard input carries the payload.
    done = gatelog(["append", "Order-42", "OrderPlaced", "-", "--expect", "1", "--json"], env, tmp_path, stdin=PLACED)
    assert json.loads(done.stdout)["version"] == 2, done.stderr
    lines = gatelog(["read", "Order-42", "--json"], env, tmp_path).stdout.splitlines()
    assert [json.loads(line)["data"] for line in lines] == [{"customer": "ann", "total": "9.90"}] * 2
    newest = gatelog(["read", "Order-42", "--backward", "-n", "1"], env, tmp_path).stdout
    assert "Order-42@2  OrderPlaced" in newest


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["read", "Order-1"], 10, "'Order-1' has no events"),
        (["read", "order"], 2, "lacks a category"),
        (["read", "Order-" + "x" * 300], 2, "255 are allowed"),
        (["append", "", "T", "{}"], 2, "is empty"),
        (["append", "Order-\x07", "T", "{}"], 2, "control character"),
        (["append", "Order-1", "Unknown", "{}"], 11, "knows no schema for event type 'Unknown'"),
        (["append", "Order-1", "OrderPlaced", "{}", "--schema", "order.avsc"], 2, "customer: Field required"),
        (["append", "Order-1", "OrderPlaced", "no json", "--schema", "order.avsc"], 2, "Invalid JSON"),
        (["append", "Order-1", "OrderPlaced", PLACED, "--schema", "order.avsc", "--expect", "x"], 2, "--expect"),
        (["append", "Order-1", "Other", PLACED, "--schema", "order.avsc"], 11, "named 'Other'"),
        (["append", "Order-1", "OrderPlaced", PLACED, "--schema", "none.avsc"], 2, "No such file"),
        (["append", "Order-1", "OrderPlaced", PLACED, "--models", "no.such"], 2, "no.such"),
        (["init", "--store", "Bad-Name"], 2, "Store name"),
        (["status", "--store", "never"], 4, "Run `gatelog init`"),
        (["append", "Order-1", "T", "{}", "--store", "never"], 4, "Run `gatelog init`"),
        (["run", "--store", "never"], 4, "Run `gatelog init`"),
    ],
)
def test_bad_input_gets_one_clear_error(
    settings: Settings, schema: Path, tmp_path: Path, arguments: list[str], exit_code: int, says: str
) -> None:
    refused = gatelog(arguments, environment(settings), tmp_path)
    assert (refused.returncode, says in refused.stderr) == (exit_code, True), refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == "" or arguments[0] == "status"


def test_payload_over_the_limit(settings: Settings, schema: Path, tmp_path: Path) -> None:
    payload = json.dumps({"customer": "x" * 2_000_000, "total": "1.00"})
    arguments = ["append", "Order-1", "OrderPlaced", "-", "--schema", str(schema)]
    refused = gatelog(arguments, environment(settings), tmp_path, stdin=payload)
    assert refused.returncode == 2
    assert "1,048,576 are allowed" in refused.stderr
    assert gatelog(["read", "Order-1"], environment(settings), tmp_path).returncode == 10


@pytest.mark.parametrize(
    ("change", "exit_code", "says"),
    [
        ({"GATELOG_POSTGRES_DSN": "postgresql://gatelog:secret@127.0.0.1:1/x"}, 3, "127.0.0.1:1/x does not answer"),
        ({"GATELOG_POSTGRES_DSN": "mysql://x"}, 2, "must look like postgresql://"),
        ({"GATELOG_POSTGRES_DSN": ""}, 2, "DSN"),
        ({"GATELOG_EVENT_BYTES_MAX": "many"}, 2, "GATELOG_EVENT_BYTES_MAX"),
    ],
)
def test_wrong_settings(
    settings: Settings, tmp_path: Path, change: dict[str, str], exit_code: int, says: str
) -> None:
    refused = gatelog(["read", "Order-1"], environment(settings, **change), tmp_path)
    assert (refused.returncode, says in refused.stderr) == (exit_code, True), refused.stderr
    assert "secret" not in refused.stderr


async def test_run_publishes_tail_follows_and_sigterm_stops(
    settings: Settings, reader: Reader, schema: Path, tmp_path: Path
) -> None:
    env = environment(settings)
    with background(["run"], env, tmp_path / "run.log") as running:
        for number in (1, 2, 3):
            arguments = ["append", f"Order-{number}", "OrderPlaced", PLACED, "--schema", str(schema)]
            assert gatelog(arguments, env, tmp_path).returncode == 0

        async def all_indexed() -> bool:
            return await reader.frontier() == 3

        await until(all_indexed, "three events are indexed")
        tail = gatelog(["tail", "--category", "Order", "--after", "0", "-n", "3", "--json"], env, tmp_path)
        assert [json.loads(line)["position"] for line in tail.stdout.splitlines()] == [1, 2, 3]
        status = json.loads(gatelog(["status", "--json"], env, tmp_path).stdout)
        assert status["producer"]["position"] == status["index"]["frontier"] == 3
        assert status["producer"]["relay_is_active"]
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text(encoding="utf-8")


async def test_tail_waits_for_what_comes(settings: Settings, schema: Path, tmp_path: Path, pipeline: None) -> None:
    env = environment(settings)
    log = tmp_path / "tail.log"
    append = ["append", "Order-1", "OrderPlaced", PLACED, "--schema", str(schema)]
    # As a shell starts what it runs in the background: told to ignore Ctrl-C.
    with background(["tail", "--json"], env, log, within=["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]) as tail:

        async def seen() -> bool:
            # `tail` starts at "now", whenever that is: append until it shows something.
            gatelog(append, env, tmp_path)
            return "OrderPlaced" in log.read_text(encoding="utf-8")

        await until(seen, "tail shows an event")
        tail.process.send_signal(signal.SIGINT)
        assert tail.process.wait(timeout=20) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_command_ends_whatever_blocks_it(settings: Settings, tmp_path: Path, number: signal.Signals) -> None:
    """A library that holds the main thread, as librdkafka does while it waits: Python sees no signal then."""
    (tmp_path / "stuck.py").write_text(STUCK, encoding="utf-8")
    arguments = ["append", "Order-1", "OrderPlaced", "{}", "--models", "stuck"]
    with background(arguments, environment(settings), tmp_path / "append.log") as append:

        async def is_stuck() -> bool:
            return (tmp_path / "stuck").exists()

        await until(is_stuck, "the module is imported")
        append.process.send_signal(number)
        assert append.process.wait(timeout=60) == 130
    assert "did not let go" in append.log.read_text(encoding="utf-8")


def test_help_teaches_by_example(tmp_path: Path, settings: Settings) -> None:
    env = environment(settings)
    commands = [
        "init",
        "up",
        "down",
        "status",
        "append",
        "read",
        "tail",
        "relay",
        "indexer",
        "run",
        "reconcile",
        "demo",
    ]
    overview = gatelog(["--help"], env, tmp_path).stdout
    for command in commands:
        assert f"  {command} " in overview
        shown = gatelog([command, "--help"], env, tmp_path).stdout
        assert f"  gatelog {command}" in shown, f"{command} --help shows no example"
    assert "  gatelog import git" in gatelog(["import", "git", "--help"], env, tmp_path).stdout
