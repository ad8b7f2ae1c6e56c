"""``gatelog verify``: gate, outbox, index and topics held against each other."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Final

import typer

from gatelog.console import options
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import StageBars, bars
from gatelog.indexer.differences import Verified
from gatelog.indexer.verify import verify as compare

DISAGREE: Final = 8


def verify(
    first: Annotated[int, typer.Option("--from", min=1, help="The first position to compare.")] = 1,
    last: Annotated[int | None, typer.Option("--to", min=1, help="The last one.", show_default="all")] = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Compare gate, outbox, index and topics, byte for byte, and say what differs and where. Changes nothing.

    Everything else may go on meanwhile. With --from or --to, only these positions of topics and index. The exit code
    is 8 if something differs.

      gatelog verify
      gatelog verify --from 1000000 --to 2000000 --json
    """
    settings = options.settings_of(store, home)
    with bars() as progress:
        done = asyncio.run(compare(settings, StageBars(progress), first=first, last=last))
    if json:
        print_json({**asdict(done), "agree": done.agree})
    else:
        _show(settings.store, done)
    if not done.agree:
        raise typer.Exit(DISAGREE)


def _show(store: str, done: Verified) -> None:
    rate = done.records / done.seconds if done.seconds else 0
    facts = {
        "positions": f"{done.first:,} to {done.last:,}" if done.last else "none yet",
        "Kafka": f"{done.records:,} records, {rate:,.0f} a second",
        "index": f"{done.indexed:,} events, frontier {done.frontier:,}, {done.behind:,} not indexed yet",
    }
    if done.streams or done.waiting:
        facts["gate"] = f"{done.streams:,} streams"
        facts["outbox"] = f"{done.waiting:,} events"
    if done.unreadable:
        facts["unreadable records"] = f"{done.unreadable:,}: `gatelog index unreadable` lists them"
    if done.foreign:
        facts["foreign records"] = f"{done.foreign:,}, passed over"
    if done.copies:
        facts["copies"] = f"{done.copies:,} records repeat others to the letter, passed over"
    print_table(f"Store {store!r}", facts)
    for kind, number in done.differences.items():
        typer.echo(f"{kind}: {number:,}")
        for example in done.examples[kind]:
            typer.echo(f"  {example}")
        if number > len(done.examples[kind]):
            typer.echo("  …")
    typer.echo("They agree." if done.agree else "They differ.")
