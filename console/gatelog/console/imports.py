"""``gatelog import``: events from elsewhere."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gatelog.console import options
from gatelog.console.git.history import Repository
from gatelog.console.git.importer import Imported, import_history
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import bars

Repo = Annotated[Path, typer.Option("--repo", help="A git repository.", exists=True, file_okay=False)]


def git(
    repo: Repo = Path(),
    revision: Annotated[str, typer.Option(help="Import what leads to this commit.")] = "HEAD",
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Import a git history: an event for each change of a file, one stream a file. Repeat it when history goes on.

    gatelog import git
    gatelog import git --repo ../linux --revision v6.12
    gatelog read File-README.md
    """
    settings = options.settings_of(store, home)
    history = Repository(repo, revision)
    with bars() as progress:
        task = progress.add_task("import commits", total=history.commits)

        def show(done: Imported) -> None:
            progress.update(task, completed=done.commits)

        done = asyncio.run(import_history(settings, history, show))
    if json:
        print_json({"commits": done.commits, "new": done.new, "known": done.known, "streams": len(done.streams)})
    else:
        counts = f"{done.new:,} new, {done.known:,} known already"
        print_table(
            f"Imported {history.revision[:12]} into store {settings.store!r}",
            {"commits": f"{done.commits:,}", "events": counts, "streams": f"{len(done.streams):,}"},
        )
