"""``gatelog demo`` from the outside: it ends well, and the second run says the same."""

import json
from pathlib import Path

from support.processes import environment, gatelog
from support.repositories import changes_per_file, make_repository

from gatelog.core.settings import Settings


def test_demo_says_the_same_twice(settings: Settings, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo.git", commits=120)
    env = environment(settings, GATELOG_HOME=str(settings.home))
    arguments = ["demo", "--repo", str(repository), "--json"]
    first, again = (gatelog([*arguments, "--store", settings.store], env, tmp_path) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    told, told_again = json.loads(first.stdout), json.loads(again.stdout)
    counts = changes_per_file(repository)
    assert told["facts"] == told_again["facts"]
    assert told["facts"]["events"] == f"{counts.total():,} in {len(counts):,} streams"
    assert told["facts"]["index and git log"] == "agree on every file"
    assert "expected no stream, but it is at version" in told["facts"]["refused append"]
    assert "reviewed_by='nobody'" in told["facts"]["newer schema"]
    assert told["rates"]["imported"].startswith(f"{counts.total():,} new")
    assert told_again["rates"]["imported"].startswith("0 new")
