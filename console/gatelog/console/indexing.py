"""``gatelog index …``: the index rebuilt, and the records that it could not read."""

import asyncio
import sys
from dataclasses import asdict
from typing import Annotated, Final

import typer

from gatelog.console import options
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import StageBars, bars
from gatelog.core import logs
from gatelog.indexer.rebuild import Rebuilt
from gatelog.indexer.rebuild import rebuild as rebuild_index

INCOMPLETE: Final = 8

_HELP: Final = "Rebuild the index, and see to records that it could not read."

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def rebuild(
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop what a rebuild that was broken off has made, and begin anew.")
    ] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Fill a fresh index from Kafka beside the live one, and put it in its place; reads, appends, indexing go on.

    Needs the role that owns the tables, and disk space for a second index. If it is broken off, the next run goes on.
    The exit code is 8 if positions are missing in the result.

      gatelog index rebuild
    """
    settings = options.settings_of(store, home)
    logs.configure(json=json or not sys.stderr.isatty())
    with bars() as progress:
        done = asyncio.run(rebuild_index(settings, StageBars(progress), restart=restart))
    if json:
        print_json(asdict(done))
    else:
        _show(settings.store, done)
    if done.frontier < done.highest:
        raise typer.Exit(INCOMPLETE)


def _show(store: str, done: Rebuilt) -> None:
    facts = {
        "records read": f"{done.records:,}" + (", after those of an earlier run" if done.resumed else ""),
        "frontier": f"{done.frontier:,}",
    }
    if done.frontier < done.highest:
        facts["missing"] = (
            f"positions from {done.frontier + 1:,} on, up to {done.highest:,}: `gatelog verify` says which"
        )
    if done.unreadable:
        facts["unreadable records"] = f"{done.unreadable:,}: `gatelog index unreadable` lists them"
    print_table(f"Store {store!r}: the index was rebuilt", facts)
