"""``gatelog index …``: the index rebuilt, and the records that it could not read."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any, Final

import typer

from gatelog.console import options
from gatelog.console.losses import index_is_back
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import StageBars, bars
from gatelog.console.store import bring_up, examine
from gatelog.core import logs, postgres, shards
from gatelog.core.errors import InvalidInputError, PostgresUnavailableError
from gatelog.core.settings import Settings
from gatelog.indexer.places import index_pools
from gatelog.indexer.rebuild import Rebuilt
from gatelog.indexer.rebuild import rebuild as rebuild_index
from gatelog.indexer.unreadable import LIST_ROWS_MAX, Outcome, Unreadable, UnreadableRecords, Whole
from gatelog.producer.elsewhere.frontier import FrontierKeeper

INCOMPLETE: Final = 8
UNREADABLE: Final = 9

NUMBER_MAX: Final = 2**63 - 1

Numbers = Annotated[
    list[int] | None,
    typer.Argument(metavar="[NUMBER]…", min=0, max=NUMBER_MAX, help="As `gatelog index unreadable` says."),
]

_HELP: Final = "Rebuild the index, see to records that it could not read, index fields of payloads."

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def rebuild(
    restart: Annotated[
        bool, typer.Option("--restart", help="Drop what a rebuild that was broken off has made, and begin anew.")
    ] = False,
    shard: Annotated[
        int | None,
        typer.Option("--shard", help="Only this one of index_dsns, counted from 0.", show_default="all", min=0),
    ] = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Fill a fresh index from Kafka beside the live one, and put it in its place; reads, appends, indexing go on.

    Needs the role that owns the tables, and disk space for a second index. If it is broken off, the next run goes on.
    Tables that were lost are made anew first, as `gatelog init` does.
    Shards are rebuilt one after the other. The exit code is 8 if positions are missing in the result.

      gatelog index rebuild
      gatelog index rebuild --shard 1
    """
    settings = options.settings_of(store, home)
    logs.configure(json=json or not sys.stderr.isatty())
    asyncio.run(_mend(settings))
    results = []
    for number in range(max(1, len(settings.index_dsns))) if shard is None else [shard]:
        with bars() as progress:
            done = asyncio.run(rebuild_index(settings, StageBars(progress), shard=number, restart=restart))
        results.append(done if len(settings.index_dsns) < 2 else replace(done, frontier=_of_all(settings, done)))
        if json:
            print_json(asdict(results[-1]))
        else:
            _show(settings, results[-1])
    if not settings.index_dsns:
        asyncio.run(index_is_back(settings))
    if results[-1].frontier < max(done.highest for done in results):
        raise typer.Exit(INCOMPLETE)


async def _mend(settings: Settings) -> None:
    """Make what was lost of a store that is there: all of it, since other parts depend on the tables of the index."""
    found = await examine(settings)
    if any(each.applied for each in found) or not any(each.mended for each in found):
        return
    for each in await bring_up(settings):
        for line in (*each.mended, *each.left, *each.next_steps):
            typer.echo(f"gatelog init: {line}", err=True)


def _of_all(settings: Settings, done: Rebuilt) -> int:
    """Return how far all shards are whole, now that this one was rebuilt; its own word, if another one is away."""
    try:
        return asyncio.run(FrontierKeeper(settings).reach())
    except PostgresUnavailableError as error:
        typer.echo(f"Another shard was not asked, which a relay will do: {error}", err=True)
        return done.frontier


def _show(settings: Settings, done: Rebuilt) -> None:
    several = len(settings.index_dsns) > 1
    facts = {
        "records read": f"{done.records:,}" + (", after those of an earlier run" if done.resumed else ""),
        "frontier": f"{done.frontier:,}" + (" of all shards" if several else ""),
    }
    if done.frontier < done.highest:
        who = "in this shard or another one: " if several else ""
        facts["missing"] = (
            f"{who}positions from {done.frontier + 1:,} on, up to {done.highest:,}: `gatelog verify` says which"
        )
    if done.unreadable:
        facts["unreadable records"] = f"{done.unreadable:,}: `gatelog index unreadable` lists them"
    what = f"shard {done.shard} of the index" if several else "the index"
    print_table(f"Store {settings.store!r}: {what} was rebuilt", facts)


@app.command()
def unreadable(
    all_: Annotated[bool, typer.Option("--all", help="Those that are settled, too.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, max=NUMBER_MAX, help="Only those with higher numbers.")] = 0,
    shard: options.Shard = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """List the records that the indexer could not read, and why. They are kept whole.

    gatelog index unreadable
    gatelog index show 3
    """
    settings = options.settings_of(store, home)
    found = asyncio.run(_list(settings, shard, after=after, settled=all_))
    for each in found:
        if json:
            print_json(asdict(each))
        else:
            typer.echo(_line(each))
    if not found and not json:
        typer.echo("None.")
    if len(found) == LIST_ROWS_MAX and not json:
        typer.echo(f"The first {LIST_ROWS_MAX:,}: go on with --after {found[-1].id}.")


@app.command()
def show(
    number: Annotated[int, typer.Argument(min=0, max=NUMBER_MAX, help="As `gatelog index unreadable` says.")],
    shard: options.Shard = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Show a record that could not be read, as it came: key, headers, value in hexadecimal.

    gatelog index show 3
    """
    settings = options.settings_of(store, home)
    found = asyncio.run(_show_one(settings, shard, number))
    if json:
        print_json(asdict(found))
        return
    facts = {
        "reason": found.reason,
        "settled": found.resolution or "no",
        "key": _text(found.key),
        **{f"header {name}": _text(value) for name, value in found.headers.items()},
        "value": "none" if found.value is None else found.value.hex(),
    }
    print_table(f"{found.id}: {found.topic} partition {found.partition} offset {found.offset}", facts)


@app.command()
def retry(
    numbers: Numbers = None,
    shard: options.Shard = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Read records again that could not be read, after a fix: all of them, or those with these numbers.

    What can be read now is in the index, once, and the frontier moves on. The exit code is 9 if some are left.

      gatelog index retry
      gatelog index retry 3 7
    """
    settings = options.settings_of(store, home)
    outcomes = asyncio.run(_retry(settings, shard, numbers or None, json=json))
    if missing := set(numbers or ()) - {each.id for each in outcomes}:
        raise InvalidInputError(f"There is no open unreadable record {min(missing)}. See `gatelog index unreadable`.")
    left = [each for each in outcomes if not each.settled]
    if not json:
        typer.echo(f"{len(outcomes) - len(left):,} settled, {len(left):,} left.")
    if left:
        raise typer.Exit(UNREADABLE)


@app.command()
def dismiss(
    numbers: Annotated[list[int], typer.Argument(min=0, max=NUMBER_MAX, help="As `gatelog index unreadable` says.")],
    because: Annotated[str, typer.Option("--because", help="Why; it is kept with the record.")],
    shard: options.Shard = None,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Settle records that are not to be indexed, such as what somebody else wrote into a topic. They stay kept.

    gatelog index dismiss 3 7 --because "a test program wrote into the topic"
    """
    settings = options.settings_of(store, home)
    if not because.strip():
        raise InvalidInputError("--because needs a reason.")
    asyncio.run(_dismiss(settings, shard, numbers, because))
    typer.echo(f"{len(numbers):,} dismissed.")


@asynccontextmanager
async def _records(settings: Settings, shard: int | None) -> AsyncIterator[UnreadableRecords]:
    number = options.shard_of(settings, shard)
    async with index_pools(settings, number, "gatelog index", 2) as (own, gate, pool):
        with postgres.translated(settings.store, shards.dsn_of(settings, number)):
            yield UnreadableRecords(own, gate, pool, number)


async def _list(settings: Settings, shard: int | None, *, after: int, settled: bool) -> list[Unreadable]:
    async with _records(settings, shard) as records:
        return await records.list(after=after, settled=settled)


async def _show_one(settings: Settings, shard: int | None, number: int) -> Whole:
    async with _records(settings, shard) as records:
        return await records.show(number)


async def _retry(settings: Settings, shard: int | None, numbers: list[int] | None, *, json: bool) -> list[Outcome]:
    outcomes = []
    async with _records(settings, shard) as records:
        async for each in records.retry(numbers):
            outcomes.append(each)
            if json:
                print_json(asdict(each))
            else:
                state = "settled" if each.settled else "left"
                typer.echo(f"{each.id}  {each.topic} {each.partition} {each.offset}  {state}: {each.what}")
    return outcomes


async def _dismiss(settings: Settings, shard: int | None, numbers: list[int], because: str) -> None:
    async with _records(settings, shard) as records:
        await records.dismiss(numbers, because)


def _line(each: Unreadable) -> str:
    state = f"  settled: {each.resolution}" if each.resolution else ""
    return (
        f"{each.id}  {each.topic} {each.partition} {each.offset}  {each.seen_at:%Y-%m-%d %H:%M}  {each.reason}{state}"
    )


def _text(value: Any) -> str:  # noqa: ANN401 - bytes or nothing
    return "none" if value is None else value.decode("utf-8", "backslashreplace")
