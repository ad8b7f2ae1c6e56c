"""``gatelog schema replay``: every stored event through the newest models, before they are deployed."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer

from gatelog.console import options
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import bars
from gatelog.console.schema import Models
from gatelog.core.errors import SchemaError, UndecodableRecordError
from gatelog.core.settings import Settings
from gatelog.reader import Reader
from gatelog.schemas import RecordedEvent
from gatelog.schemas.sources import models_of

FAILED: Final = SchemaError.exit_code
_REASON_CHARACTERS_MAX: Final = 400


@dataclass
class Replay:
    """What became of the events; ``failures`` has a sample of each type and schema."""

    sample: int
    read: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    parts: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    _sampled: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, event: RecordedEvent) -> None:
        """Decode an event, and count what became of it."""
        if event.part > 1:
            self.parts += 1
        else:
            self.read[event.type] += 1
        try:
            _ = event.data
        except UndecodableRecordError as error:
            self.failed[event.type] += 1
            self._keep(event, str(error))

    def _keep(self, event: RecordedEvent, reason: str) -> None:
        key = (event.type, event.schema_id)
        self._sampled[key] += 1
        if self._sampled[key] <= self.sample:
            self.failures.append(
                {
                    "type": event.type,
                    "stream": event.stream,
                    "version": event.version,
                    "position": event.position,
                    "schema_id": event.schema_id,
                    "reason": reason[:_REASON_CHARACTERS_MAX],
                }
            )


def replay(
    event_type: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TYPE]…", help="Event types.", show_default="all that the models define"),
    ] = None,
    models: Models = None,
    sample: Annotated[int, typer.Option(min=1, help="Failures to show of each type and schema.")] = 3,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Read every stored event through the newest models and upcasters of this working tree, and report what fails.

    For the step before a deployment: nothing is registered or written, and a model need not be registered. Events are
    read up to where the index is complete. The exit code is 11 if an event cannot be read, or if stored versions have
    no way to a model (a missing upcaster), which is found before anything is read.

      gatelog schema replay --models shop.events
      gatelog schema replay OrderPlaced --models shop.events --json
    """
    settings = options.settings_of(store, home)
    types = _types(event_type, models, settings)
    with bars() as progress:
        task = progress.add_task("replay", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        found = asyncio.run(_replay(settings, types, sample, show))
    if json:
        counts = {name: {"read": found.read[name], "failed": found.failed[name]} for name in types}
        print_json({"types": counts, "parts": found.parts, "failures": found.failures})
    else:
        _show(found, types)
    if found.failures:
        raise typer.Exit(FAILED)


def _types(given: list[str] | None, models: list[str] | None, settings: Settings) -> list[str]:
    modules = tuple(models or settings.schemas.models)
    if not modules:
        raise SchemaError("Which models? Name a module with --models, or set models under [schemas] in gatelog.toml.")
    defined = sorted({model.event_type for model in models_of(modules)})
    if unknown := sorted(set(given or ()) - set(defined)):
        raise SchemaError(
            f"{', '.join(unknown)}: not defined in {', '.join(modules)}. Defined: {', '.join(defined)}."
        )
    return sorted(set(given)) if given else defined


async def _replay(settings: Settings, types: list[str], sample: int, show: Callable[[int, int], None]) -> Replay:
    found = Replay(sample)
    async with Reader.connect(settings) as reader:
        total = await reader.frontier()
        async for event in reader.all(types=types):
            found.add(event)
            show(event.position or 0, max(total, event.position or 0))
        show(total, total)
    return found


def _show(found: Replay, types: list[str]) -> None:
    rows = {
        name: f"{found.read[name]:,} events" + (f", {found.failed[name]:,} FAILED" if found.failed[name] else "")
        for name in types
    }
    others = sorted(set(found.failed) - set(types))  # stored under a type that would be read as one of these
    rows |= {name: f"{found.failed[name]:,} FAILED" for name in others}
    print_table("Read through the newest models", rows)
    for each in found.failures:
        where = f"{each['stream']}@{each['version']} (position {each['position']}, schema id {each['schema_id']})"
        typer.echo(f"  {each['type']}  {where}: {each['reason']}")
