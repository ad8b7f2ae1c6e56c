"""A git history in the store: every change once, whoever is killed on the way. The judge is ``git log``."""

import asyncio
import json
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from support.kafka import records_of
from support.processes import background, environment, gatelog
from support.repositories import changes_per_file, commits_of, make_repository
from support.waiting import until

from gatelog.console.git.importer import CATEGORY, stream_of
from gatelog.core.settings import Settings
from gatelog.reader import Reader

COMMITS = 400


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("git") / "repo.git", COMMITS)


@pytest.fixture(scope="module")
def expected(repository: Path) -> Counter[str]:
    """Events that each stream must have."""
    return Counter({stream_of(path): count for path, count in changes_per_file(repository).items()})


async def streams_of(reader: Reader) -> Counter[str]:
    """Count the index by stream, and see that versions are contiguous and positions rise."""
    found: Counter[str] = Counter()
    position = 0
    async for event in reader.category(CATEGORY):
        found[event.stream] += 1
        assert event.version == found[event.stream]
        assert event.position is not None
        assert event.position > position
        position = event.position
    return found


async def test_index_agrees_with_git_log(
    settings: Settings, reader: Reader, pipeline: None, repository: Path, expected: Counter[str], tmp_path: Path
) -> None:
    arguments = ["import", "git", "--repo", str(repository), "--json"]
    first = await asyncio.to_thread(gatelog, arguments, environment(settings), tmp_path)
    again = await asyncio.to_thread(gatelog, arguments, environment(settings), tmp_path)
    total = expected.total()
    facts = {"commits": commits_of(repository), "streams": len(expected)}
    assert json.loads(first.stdout) == {**facts, "new": total, "known": 0}, first.stderr
    assert json.loads(again.stdout) == {**facts, "new": 0, "known": total}, again.stderr
    await until(partial(_reaches, reader, total), "the index holds all")
    assert await streams_of(reader) == expected


async def test_kills_on_the_way_change_nothing(
    settings: Settings, reader: Reader, repository: Path, expected: Counter[str], tmp_path: Path
) -> None:
    """Importer, relay and indexer are killed several times each; small ticks make sure that it is in mid-work."""
    total = expected.total()
    slow = environment(settings, GATELOG_TICK_EVENTS_MAX="20", GATELOG_INDEX_ROWS_MAX="10")
    commands = {
        "relay": ["relay"],
        "indexer": ["indexer"],
        "importer": ["import", "git", "--repo", str(repository)],
    }
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(background(command, slow, tmp_path / f"{name}.log"))
            for name, command in commands.items()
        }
        for share in (0.1, 0.4, 0.7):
            await until(partial(_reaches, reader, int(total * share)), f"{share:.0%} are indexed")
            for name, command in commands.items():
                running[name].kill()
                running[name] = stack.enter_context(background(command, slow, tmp_path / f"{name}.log"))
        await until(partial(_reaches, reader, total), "all is indexed")
        assert await asyncio.to_thread(running["importer"].process.wait, 60) == 0
        assert [running[name].stop() for name in ("relay", "indexer")] == [0, 0]
    assert await streams_of(reader) == expected
    records = await asyncio.to_thread(records_of, settings)
    assert sorted(record.position for record in records) == list(range(1, total + 1))


async def _reaches(reader: Reader, position: int) -> bool:
    return await reader.frontier() >= position


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repo", "."], "not a git repository"),
        (["--repo", "missing"], "does not exist"),
        (["--repo", "REPO", "--revision", "nowhere"], "no commit 'nowhere'"),
    ],
)
def test_what_cannot_be_imported_is_named(
    settings: Settings, repository: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    words = [str(repository) if word == "REPO" else word for word in arguments]
    refused = gatelog(["import", "git", *words], environment(settings), tmp_path)
    assert refused.returncode == 2
    assert says in refused.stderr
