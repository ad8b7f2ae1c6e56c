"""``gatelog projection``: read models in Postgres: prepare, run, rebuild, watch, drop."""

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeVar

import typer

from gatelog.console import ending, failing, options
from gatelog.console.output import print_json, print_table
from gatelog.console.programs import imported
from gatelog.console.progress import bars
from gatelog.console.running import JsonLogs, loop_factory, until_signal
from gatelog.core import logs, postgres, services
from gatelog.core.errors import StoreNotInitialisedError
from gatelog.core.settings import Settings
from gatelog.core.sql import queries
from gatelog.reader import Projection
from gatelog.reader.subscriptions.checkpoints import PACKAGE, SQL_FILE
from gatelog.reader.subscriptions.watching import Progress

PROGRESS_INTERVAL_S: Final = 1.0
STOPPED: Final = 130

app = typer.Typer(help="Read models in Postgres, filled exactly once.", no_args_is_help=True, rich_markup_mode=None)
T = TypeVar("T")

Target = Annotated[
    str,
    typer.Argument(metavar="MODULE:NAME", help="A Projection: totals:totals, or shop/totals.py:totals."),
]
Dsn = Annotated[
    str | None,
    typer.Option("--dsn", help="Database of the read models, where it is not that of the store.", show_default=False),
]


class _Run:
    """A projection as a service."""

    name = "projection"

    def __init__(self, projection: Projection, settings: Settings) -> None:
        self._projection = projection
        self._settings = settings

    async def run(self, stop: asyncio.Event) -> None:
        await self._projection.run(stop, self._settings)


class _Rebuild(_Run):
    """A rebuild as a service: it ends when the new build is live."""

    is_switched = False

    async def run(self, stop: asyncio.Event) -> None:
        showing = asyncio.create_task(_show(self._projection, self._settings))
        try:
            self.is_switched = await self._projection.rebuild(stop, self._settings)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


@app.command()
def prepare(target: Target, store: options.Store = None, home: options.Home = None) -> None:
    """Make the tables of a projection, and those of its checkpoints, in the database of its read model.

    Safe to run again.

      gatelog projection prepare totals:totals
    """
    settings = options.settings_of(store, home)
    projection = imported(target, Projection)
    asyncio.run(projection.prepare(settings))
    typer.echo(f"Projection {projection.name!r} is prepared.")


@app.command()
def run(target: Target, store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False) -> None:
    """Run a projection until SIGTERM or Ctrl-C; then finish the batch and leave. Start as many as you like.

    They share the partitions; of a projection in total order one works and the others stand by. A program with a
    higher version than the live one builds its own read model beside it, and switches when it has come as far.

      gatelog projection run totals:totals
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, _Run(imported(target, Projection), settings))


@app.command()
def rebuild(
    target: Target, store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False
) -> None:
    """Fill a read model anew, from the first event, beside the live one; switch when it has come as far.

    Stopped before that (exit code 130), it goes on where it was when it is run again.

      gatelog projection rebuild totals:totals
    """
    logs.configure(json=json_logs or not sys.stderr.isatty(), level="warning")
    settings = options.settings_of(store, home)
    projection = imported(target, Projection)
    rebuilding = _Rebuild(projection, settings)
    ending.leave_to_services()
    with failing.logged_as_json(json_logs):
        _run(services.run_until_signal(rebuilding, on_signal=ending.soon))
    if not rebuilding.is_switched:
        typer.echo(f"Stopped. Projection {projection.name!r} is as it was; run this again to go on.", err=True)
        raise typer.Exit(STOPPED)
    typer.echo(f"Projection {projection.name!r} is rebuilt, and the new build is live.")


@app.command()
def status(
    target: Target, store: options.Store = None, home: options.Home = None, json: options.Json = False
) -> None:
    """Show how far each build of a projection has come, its rate, and the time that is left. It looks for a second.

    gatelog projection status totals:totals
    """
    settings = options.settings_of(store, home)
    for progress in _run(_looked(imported(target, Projection), settings)):
        if json:
            print_json(asdict(progress))
        else:
            print_table(_title(progress), _facts(progress))


@app.command("list")
def list_projections(
    dsn: Dsn = None, store: options.Store = None, home: options.Home = None, json: options.Json = False
) -> None:
    """List every projection of a store with its builds.

    gatelog projection list
    gatelog projection list --dsn postgresql://reports@db/reports
    """
    settings = options.settings_of(store, home)
    rows = _run(_listed(settings, dsn or settings.dsn))
    for row in rows:
        if json:
            print_json(row)
        else:
            moved = "never moved" if row["moved_at"] is None else f"moved {row['moved_at']:%Y-%m-%d %H:%M:%S}"
            typer.echo(
                f"{row['projection']}  build {row['build']} (version {row['version']}), {row['state']}  "
                f"{row['events']:,} events, up to position {row['position']:,}, {moved}"
            )
    if not rows and not json:
        typer.echo("There are no projections.")


@app.command()
def drop(
    target: Target,
    build: Annotated[int, typer.Option(min=1, help="Number of the build; the live one is not dropped.")],
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Drop a retired build, or one that is being built, with its schema and everything in it.

    gatelog projection drop totals:totals --build 1
    """
    settings = options.settings_of(store, home)
    asyncio.run(imported(target, Projection).drop(build, settings))
    typer.echo(f"Build {build} is dropped.")


def _run(what: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(what)


async def _listed(settings: Settings, dsn: str) -> list[dict[str, Any]]:
    connection = await postgres.connect(dsn, settings.store, "gatelog projection list")
    try:
        with postgres.translated(settings.store, dsn):
            rows = await connection.fetch(queries(PACKAGE, SQL_FILE, settings.store)["projections"], None)
    except StoreNotInitialisedError:
        return []  # nothing was ever prepared there
    finally:
        await connection.close()
    return [dict(row) for row in rows]


async def _looked(projection: Projection, settings: Settings) -> list[Progress]:
    async with projection.watched(settings) as watch:
        await watch.progress()
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        return await watch.progress()


async def _show(projection: Projection, settings: Settings) -> None:
    """Draw a bar of the build that is being built; nothing where nobody looks."""
    with bars() as display:
        async with projection.watched(settings) as watch:
            task = display.add_task(f"build of {projection.name}", total=None)
            while True:
                for progress in await watch.progress():
                    if progress.state == "building":
                        done = progress.events
                        display.update(task, completed=done, total=done + progress.behind)
                await asyncio.sleep(PROGRESS_INTERVAL_S)


def _title(progress: Progress) -> str:
    return f"{progress.projection}, build {progress.build} (version {progress.version}): {progress.state}"


def _facts(progress: Progress) -> dict[str, str]:
    left = progress.seconds_left
    return {
        "events": f"{progress.events:,}, up to position {progress.position:,}",
        "behind": f"about {progress.behind:,} events",
        "rate": f"{progress.events_per_s:,.0f} events/s",
        "time left": "unknown: nothing moves" if left is None else f"{left:,.0f} s",
        "since": f"{progress.since:%Y-%m-%d %H:%M:%S}",
    }
