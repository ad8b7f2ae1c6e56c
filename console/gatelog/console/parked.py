"""``gatelog parked``: events that a subscription has given up, to look at, handle again, or drop."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gatelog.console import options
from gatelog.console.output import print_json, print_table
from gatelog.core import identity, postgres
from gatelog.core.consumer_errors import ParkedNotFoundError, ParkedWithoutPayloadError
from gatelog.core.errors import InvalidInputError, UndecodableRecordError
from gatelog.core.identity import Identified
from gatelog.core.settings import Settings
from gatelog.reader.subscriptions.originals import whole
from gatelog.reader.subscriptions.parked import ParkedEvent, ParkedState, parked_topic_of
from gatelog.reader.subscriptions.parked_topic import ParkedTopic
from gatelog.schemas.codec import Codec
from gatelog.schemas.envelope import parse_record
from gatelog.schemas.registries import registry_of

app = typer.Typer(help="Events that a subscription has given up.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="SUBSCRIPTION", help="Name of the subscription.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Event ids.")]
Stream = Annotated[str | None, typer.Option(help="All parked events of this stream.")]
All = Annotated[bool, typer.Option("--all", help="All parked events.")]


@app.command("list")
def list_parked(
    name: Name,
    stream: Stream = None,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """List what is parked, by position.

    gatelog parked list billing
    gatelog parked list billing --stream Order-42 --json
    """
    with ParkedTopic(_identified(options.settings_of(store, home)), name) as topic:
        found = [event for event in topic.all() if stream in (None, event.stream)]
    for event in found:
        if json:
            print_json(_document(event))
        else:
            waits = "  (to be replayed)" if event.state is ParkedState.REPLAY else ""
            when = event.parked_at.strftime("%Y-%m-%d %H:%M:%S")
            typer.echo(
                f"{event.position:>8}  {event.event_id}  {event.stream}@{event.version}  {event.type}  {when}  "
                f"{event.attempts} attempts: {_in_one_line(event.reason)}{waits}"
            )
    if not found and not json:
        typer.echo("Nothing is parked.")


@app.command()
def show(
    name: Name,
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Event id.")],
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Show one parked event: why it is parked, the trace, its headers, its payload.

    gatelog parked show billing 0197e8d2-7a3c-7cc0-a5c5-1f2e3d4c5b6a
    """
    settings = _identified(options.settings_of(store, home))
    with ParkedTopic(settings, name) as topic:
        (event,) = _chosen(name, topic.all(), [event_id], None, every=False)
    document = _document(event) | {"trace": event.trace} | asyncio.run(_payload(settings, name, event))
    if json:
        print_json(document)
        return
    print_table(
        f"{event.stream}@{event.version}  {event.type}", {k: str(v) for k, v in document.items() if k != "trace"}
    )
    typer.echo(event.trace)


@app.command()
def replay(
    name: Name,
    ids: Ids = None,
    stream: Stream = None,
    every: All = False,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Ask for parked events to be handled again, by the running subscription, in the order of each stream.

    When a stream is held, an event waits for those that failed before it: ask for these too, or use --stream. Events
    that are parked only because one before them is follow by themselves.

      gatelog parked replay billing 0197e8d2-7a3c-7cc0-a5c5-1f2e3d4c5b6a
      gatelog parked replay billing --stream Order-42
      gatelog parked replay billing --all
    """
    with ParkedTopic(_identified(options.settings_of(store, home)), name) as topic:
        chosen = _chosen(name, topic.all(), ids, stream, every=every)
        if chosen:  # a topic is made by writing
            topic.write([(event.event_id, event.asked_again()) for event in chosen])
    typer.echo(f"{len(chosen):,} events will be handled again by the members of {name!r}.")


@app.command()
def drop(
    name: Name,
    ids: Ids = None,
    stream: Stream = None,
    every: All = False,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Take parked events for settled: they are not handled. The events themselves stay in the store.

    Events that are parked only because one before them is are then handled, unless another one before them failed.

    gatelog parked drop billing 0197e8d2-7a3c-7cc0-a5c5-1f2e3d4c5b6a
    """
    with ParkedTopic(_identified(options.settings_of(store, home)), name) as topic:
        chosen = _chosen(name, topic.all(), ids, stream, every=every)
        if chosen:
            topic.write([(event.event_id, None) for event in chosen])
    typer.echo(f"{len(chosen):,} events are dropped.")


def _identified(settings: Settings) -> Identified:
    return asyncio.run(identity.ask(settings, "gatelog parked"))


def _chosen(
    name: str, found: Sequence[ParkedEvent], ids: Sequence[str] | None, stream: str | None, *, every: bool
) -> list[ParkedEvent]:
    """Return the events that were named, in the order of positions."""
    if sum((bool(ids), stream is not None, every)) != 1:
        raise InvalidInputError("Name event ids, or --stream, or --all; one of the three.")
    if missing := set(ids or ()) - {event.event_id for event in found}:
        raise ParkedNotFoundError(name, f"event {min(missing)}")
    chosen = [e for e in found if every or e.stream == stream or e.event_id in (ids or ())]
    if not chosen and stream is not None:
        raise ParkedNotFoundError(name, f"an event of stream {stream!r}")
    return chosen


def _document(event: ParkedEvent) -> dict[str, Any]:
    return {
        "id": event.event_id,
        "stream": event.stream,
        "version": event.version,
        "position": event.position,
        "type": event.type,
        "state": event.state.value,
        "reason": event.reason,
        "attempts": event.attempts,
        "parked_at": event.parked_at,
        "topic": event.place[0],
        "partition": event.place[1],
        "offset": event.offset,
        "has_payload": not event.is_reference,
    }


def _in_one_line(text: str) -> str:
    """Return what a handler said such that a terminal shows it, and does not obey it."""
    return "".join(c if c.isprintable() else " " if c.isspace() else f"\\x{ord(c):02x}" for c in text)


async def _payload(settings: Identified, name: str, event: ParkedEvent) -> dict[str, Any]:
    async with postgres.pool(settings.dsn, settings.store, "gatelog parked", 2) as pool:
        raw: dict[str, Any] = {}
        try:
            event = await whole(settings, pool, parked_topic_of(settings, name), event)
            raw = {"raw": event.value.hex()}
            record = parse_record(settings.source, list(event.headers), event.value)
            codec = Codec(registry_of(settings, pool), register=False)
            await codec.warm({record.schema_id})
            found: dict[str, Any] = {"data": record.with_codec(codec).as_dict()}
        except (ParkedWithoutPayloadError, UndecodableRecordError) as error:
            found = {"unreadable": str(error)} | raw
        return found | {"headers": {key: value.decode(errors="replace") for key, value in event.headers}}
