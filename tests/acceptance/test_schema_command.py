"""``gatelog schema`` as a team meets it: in a git repository, in CI, and with a store."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.avro_schemas import Schemas
from support.processes import environment, gatelog
from typer.testing import CliRunner

from gatelog.console.app import app
from gatelog.core.errors import GatelogError
from gatelog.core.settings import Settings
from gatelog.schemas.generate import module_of

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "OrderPlaced",
    "namespace": "shop",
    "fields": [{"name": "customer", "type": "string"}, {"name": "total", "type": "int"}],
}
MODELS = '''\
"""Events."""

from gatelog.schemas import Event


class OrderPaid(Event):
    """Paid."""

    amount: int
'''
BROKEN = MODELS + "    currency: str\n"
SETTINGS = """\
[schemas]
files = ["schemas"]
models = ["shop.events"]
compatibility = "BACKWARD"

[schemas.subjects]
"shop.OrderPlaced" = "FULL_TRANSITIVE"
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment without services, in which the models are installed as they are in the working tree."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATELOG_")}
    return {
        **kept,
        "NO_COLOR": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "PYTHONPATH": str(tmp_path / "shop" / "src"),
    }


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_order(folder: Path, *fields: dict[str, Any]) -> None:
    schema = {**ORDER, "fields": list(fields) or ORDER["fields"]}
    write(folder / "schemas" / "order.avsc", json.dumps(schema, indent=2))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository with a schema file and a module of models, committed on main."""
    folder = tmp_path / "shop"
    write_order(folder)
    write(folder / "src" / "shop" / "__init__.py", "")
    write(folder / "src" / "shop" / "events.py", MODELS)
    write(folder / "gatelog.toml", SETTINGS)
    git(tmp_path, "init", "--quiet", "-b", "main", str(folder))
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "change")


def here(*arguments: str) -> tuple[int, str]:
    """Run a command in this process, which is fast; for commands that import no modules.

    In a thread: the loop of the tests is not that of the command.
    """
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(CliRunner().invoke, app, ["schema", *arguments]).result()
    if isinstance(done.exception, GatelogError):
        return done.exception.exit_code, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def checked(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    code, output = here("check", "schemas", *arguments, "--format", "json")
    return code, json.loads(output)["findings"]


def test_files_and_models_are_compared_with_a_ref(shop: Path, env: dict[str, str]) -> None:
    """Models at the ref are imported as they were there, not as they are now."""
    check = ["schema", "check", "--against", "main", "--format"]
    done = gatelog([*check, "json"], env, shop)
    assert (done.returncode, json.loads(done.stdout)["findings"]) == (0, []), done.stderr
    write(shop / "src" / "shop" / "events.py", BROKEN)
    write_order(shop, {"name": "customer", "type": "string"}, {"name": "total", "type": "long"})
    done = gatelog([*check, "json"], env, shop)
    assert done.returncode == 11, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert {(each["subject"], each["rule"], each["path"], each["breaks"]) for each in found} == {
        ("OrderPaid", "READER_FIELD_MISSING_DEFAULT_VALUE", "OrderPaid.currency", "new readers"),
        ("shop.OrderPlaced", "TYPE_MISMATCH", "OrderPlaced.total", "old readers"),
    }
    line = BROKEN.splitlines().index("    currency: str") + 1
    assert ("src/shop/events.py", line) in {(each["file"], each["line"]) for each in found}
    shown = gatelog([*check, "github"], env, shop).stdout
    assert f"::error file=src/shop/events.py,line={line},title=READER_FIELD_MISSING_DEFAULT_VALUE" in shown


def test_a_module_that_does_not_load_is_one_clear_error(shop: Path, env: dict[str, str]) -> None:
    write(shop / "src" / "shop" / "events.py", "import no_such_module\n")
    refused = gatelog(["schema", "check", "--against", "main"], env, shop)
    assert (refused.returncode, "No module named 'no_such_module'" in refused.stderr) == (2, True)
    commit(shop)
    write(shop / "src" / "shop" / "events.py", MODELS)
    refused = gatelog(["schema", "check", "--against", "main"], env, shop)
    assert (refused.returncode, "The models at commit" in refused.stderr) == (11, True)
    assert "Traceback" not in refused.stderr


def test_transitive_looks_at_the_whole_history(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field was removed and comes back as another type: only the first commit knows."""
    monkeypatch.chdir(shop)
    total = {"name": "total", "type": "string", "default": ""}
    customer = {"name": "customer", "type": "string"}
    write_order(shop, customer)
    commit(shop)
    write_order(shop, customer, total)
    assert checked("--against", "main", "--level", "BACKWARD") == (0, [])
    code, found = checked("--against", "main")  # the settings say FULL_TRANSITIVE
    assert (code, {each["path"] for each in found}) == (11, {"OrderPlaced.total"})


def test_a_type_that_is_gone_and_a_ref_that_never_was(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    write(shop / "schemas" / "order.avsc", json.dumps({**ORDER, "name": "Other"}))
    code, found = checked("--against", "main")
    assert (code, [(each["subject"], each["rule"]) for each in found]) == (
        11,
        [("shop.OrderPlaced", "SUBJECT_REMOVED")],
    )
    code, message = here("check", "schemas", "--against", "no-such")
    assert (code, "Git knows no 'no-such'" in message) == (11, True)


def test_a_folder_that_was_renamed_does_not_pass_for_new(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    (shop / "schemas").rename(shop / "moved")
    code, told = here("check", "moved", "--against", "main")
    assert (code, "not compared: main has no schemas in these files and modules" in told) == (0, True)


def test_people_are_told_the_place_the_reason_and_the_way_out(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    write_order(shop, *ORDER["fields"], {"name": "note", "type": "string"})
    code, told = here("check", "schemas", "--against", "main")
    line = (shop / "schemas" / "order.avsc").read_text(encoding="utf-8").splitlines().index('      "name": "note",')
    assert code == 11
    assert f"schemas/order.avsc:{line}: error: OrderPlaced.note  string without a default" in told
    assert "breaks   new readers: this version cannot read what was written with main" in told
    assert "instead  Give note a default" in told
    assert "1 error: 1 event types, 0 of them new, compared with main" in told
    assert here("diff", "schemas", "--against", "main") == (
        0,
        "shop.OrderPlaced\n  + OrderPlaced.note  field: string\n",
    )
    code, told = here("lint", "schemas", "--against", "main", "--ignore", "FIELD_DOC")
    assert code == 11
    assert "OrderPlaced.note  note was added, without a default  [ADDITION_DEFAULT]" in told
    assert "[FIELD_DOC]" not in told


def test_register_first_dry_then_really(shop: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    register = ["register", "schemas", "--json"]
    assert here("list") == (0, f"no subjects in store {settings.store}\n")
    dry = json.loads(here(*register)[1])
    assert dry == {"subject": "shop.OrderPlaced", "version": 1, "id": None, "new": True, "applied": False}
    assert here("list") == (0, f"no subjects in store {settings.store}\n")
    assert json.loads(here(*register, "--apply")[1])["id"] is not None
    # What one subject would break keeps the others from being registered too.
    write(shop / "schemas" / "a.avsc", json.dumps({**ORDER, "name": "Another"}))
    write_order(shop, *ORDER["fields"], {"name": "note", "type": "string"})
    code, message = here(*register, "--apply")
    assert (code, "OrderPlaced.note: string without a default" in message) == (11, True)
    code, found = checked()
    assert (code, [each["against"] for each in found]) == (11, ["version 1"])
    assert "Another" not in here("list")[1]
    write_order(shop, *ORDER["fields"], {"name": "note", "type": "string", "default": ""})
    assert here(*register, "--apply")[0] == 0
    assert "shop.OrderPlaced  version 2" in here("list")[1]
    assert "+ OrderPlaced.note  field: string = ''" in here("history", "shop.OrderPlaced")[1]
    assert json.loads(here("show", "shop.OrderPlaced", "--version", "1")[1]) == ORDER
    assert here("show", "shop.OrderPlaced", "--version", "3")[0] == 11
    assert here("level", "shop.Another", "--set", "FULL") == (0, "FULL\n")


def test_models_and_files_go_both_ways(shop: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    generate = ["generate", "schemas", "-o", "made"]
    assert here(*generate)[0] == 0
    assert here(*generate, "--check")[0] == 0
    assert gatelog(["schema", "export", "--models", "made", "-o", "back"], env, shop).returncode == 0
    again = json.loads((shop / "back" / "shop.OrderPlaced.avsc").read_text(encoding="utf-8"))
    assert again["fields"] == ORDER["fields"]
    write_order(shop, {"name": "customer", "type": "string"})
    code, message = here(*generate, "--check")
    assert (code, "Not up to date: made" in message) == (11, True)


def test_generated_code_is_formatted_and_typed(tmp_path: Path) -> None:
    for seed in range(12):
        schema = Schemas(random.Random(seed)).record(namespace=["", "shop.events"][seed % 2] or None)
        write(tmp_path / f"module_{seed}.py", module_of(schema, "root.avsc"))
    binaries = Path(sys.executable).parent
    cache = str(tmp_path / "cache")
    style = 'lint.isort.known-first-party = ["gatelog"]'
    rules = ["check", "--isolated", "--select", "E4,E7,E9,F,I", "--config", style, "."]
    for command in (
        [str(binaries / "ruff"), "format", "--isolated", "--check", "."],
        [str(binaries / "ruff"), *rules],
        [str(binaries / "mypy"), "--strict", "--cache-dir", cache, "."],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
