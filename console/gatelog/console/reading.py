"""``gatelog read``: a stream, or what a query of the log finds."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import typer

from gatelog.console import options
from gatelog.console.output import document_of, line_of, print_json
from gatelog.core.domain import check_stream_id
from gatelog.core.errors import InvalidInputError
from gatelog.reader import Condition, Query, Reader
from gatelog.reader.where import condition
from gatelog.schemas import RecordedEvent

_WHERE: Final = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=|<|>|=)\s*(.*?)\s*", re.DOTALL)
_AGO: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def read(
    stream: Annotated[str | None, typer.Argument(help="Category-key, for example Order-42; none: the log.")] = None,
    from_version: Annotated[int | None, typer.Option("--from", min=1, help="Stream: first version.")] = None,
    to_version: Annotated[int | None, typer.Option("--to", min=1, help="Stream: last version.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Log: only this category; may be repeated.")] = None,
    types: Annotated[list[str] | None, typer.Option("--type", help="Log: only this type; may be repeated.")] = None,
    correlation: Annotated[UUID | None, typer.Option(help="Log: the story of this correlation id.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Log: recorded then or later; a time, or 15m, 2h, 3d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Log: recorded before; as --since.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Log: payload field and value, customer=ann, 'total>=10'; all must hold.")
    ] = None,
    after: Annotated[int | None, typer.Option(min=0, help="Log: behind this position.")] = None,
    limit: Annotated[int | None, typer.Option("-n", "--limit", min=0, help="At most so many events.")] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Newest first.")] = False,
    last: Annotated[bool, typer.Option("--last", help="The newest event only.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Log: show how Postgres would find it.")] = False,
    analyze: Annotated[bool, typer.Option("--analyze", help="Log: the same, run and timed.")] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Print the events of a stream, or those of the log that fit all options.

    A stream shows what was acknowledged, relay and indexer up or down. The log ends where the index does.
    Times are UTC unless they say otherwise. A --where value is JSON, or else text; nested fields: address.city=Ulm.

      gatelog read Order-42
      gatelog read Order-42 --last --json
      gatelog read --category Order --type OrderPlaced --since 2h --where customer=ann --where 'total>=10'
      gatelog read --correlation 0198f3c2-7a55-7c31-b7f0-8b7f6d9a2c11
      gatelog read --type OrderPlaced --where customer=ann --explain
    """
    if last:
        backward, limit = True, 1
    filters: dict[str, Any] = {
        "types": types,
        "correlation_id": correlation,
        "since": None if since is None else _time("--since", since),
        "until": None if until is None else _time("--until", until),
        "where": None if where is None else [_condition(text) for text in where],
        "after": after,
    }
    bounds = {"from_version": from_version, "to_version": to_version}
    of_log = category or explain or analyze or any(value is not None for value in filters.values())
    if stream is not None:
        check_stream_id(stream)
        if of_log:
            raise InvalidInputError(f"Stream {stream!r} has no filters: leave it out to read the log, or them.")
    elif from_version or to_version:
        raise InvalidInputError("--from and --to are versions: name a stream. In the log, --after takes a position.")
    settings = options.settings_of(store, home)

    async def show() -> None:
        async with Reader.connect(settings) as reader:
            if stream is not None:
                async for event in reader.stream(stream, **bounds, limit=limit, backward=backward):
                    print_event(event, json)
                return
            found: Query = (
                reader.category(*category, **filters, limit=limit, backward=backward)
                if category
                else reader.all(**filters, limit=limit, backward=backward)
            )
            if explain or analyze:
                typer.echo(await found.explain(analyze=analyze))
                return
            async for event in found:
                print_event(event, json)

    asyncio.run(show())


def print_event(event: RecordedEvent, json: bool) -> None:
    """Print an event as JSON, or as a line for people."""
    if json:
        print_json(document_of(event))
    else:
        typer.echo(line_of(event))


def _time(option: str, text: str) -> datetime:
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInputError(f"{option} {text!r}: say a time such as 2026-03-01T12:00, or 15m, 2h, 3d.") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _condition(text: str) -> Condition:
    parts = _WHERE.fullmatch(text)
    if parts is None:
        raise InvalidInputError(f"--where {text!r}: say a field, one of = < <= > >=, and a value: 'total>=10'.")
    name, operator, value = parts.groups()
    try:
        found: Any = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = value
    return condition(tuple(name.split(".")), operator, found)  # type: ignore[arg-type] # what the pattern takes
