"""``gatelog schema list``, ``show``, ``history``, ``level`` and ``register``: the registry in force."""

import asyncio
from typing import Annotated

import orjson
import typer

from gatelog.console import options
from gatelog.console.output import print_json
from gatelog.console.schema import Models, Paths, levels_of, name_of, registry_in, sources_of
from gatelog.console.schema_output import print_changes
from gatelog.core.errors import IncompatibleSchemaError, SchemaError
from gatelog.core.settings import Settings
from gatelog.schemas.checking import problems
from gatelog.schemas.difference import changes
from gatelog.schemas.registry import AvroSchema, Check, Compatibility, RegisteredSchema, Registration, Registry
from gatelog.schemas.sources import definitions_of

Subject = Annotated[str, typer.Argument(help="Event type.")]


def list_(json: options.Json = False, store: options.Store = None, home: options.Home = None) -> None:
    """List the subjects: newest version, its id, compatibility level.

    gatelog schema list
    """
    settings = options.settings_of(store, home)
    rows = asyncio.run(_rows(settings))
    for latest, level in rows:
        if json:
            document = {"subject": latest.subject, "version": latest.version, "id": latest.id, "level": level}
            print_json(document)
        else:
            typer.echo(f"{latest.subject}  version {latest.version}  id {latest.id}  {level}")
    if not rows and not json:
        typer.echo(f"no subjects in {name_of(settings)}")


async def _rows(settings: Settings) -> list[tuple[RegisteredSchema, Compatibility]]:
    async with registry_in(settings) as registry:
        subjects = await registry.subjects()
        return [(await registry.latest(subject), await registry.level(subject)) for subject in subjects]


def show(
    subject: Subject,
    version: Annotated[int | None, typer.Option(help="Which version.", show_default="the newest")] = None,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Print the definition of an event type, as an .avsc file has it.

    gatelog schema show OrderPlaced --version 1 > order-1.avsc
    """
    settings = options.settings_of(store, home)
    found = asyncio.run(_versions(settings, subject))
    chosen = found[-1] if version is None else next((each for each in found if each.version == version), None)
    if chosen is None:
        raise SchemaError(
            f"{subject} has no version {version}; it has {', '.join(str(each.version) for each in found)}."
        )
    typer.echo(orjson.dumps(chosen.definition, option=orjson.OPT_INDENT_2))


def history(
    subject: Subject, json: options.Json = False, store: options.Store = None, home: options.Home = None
) -> None:
    """Show all versions of an event type, and what changed from one to the next.

    gatelog schema history OrderPlaced
    """
    before: AvroSchema | None = None
    for each in asyncio.run(_versions(options.settings_of(store, home), subject)):
        title = f"{each.subject} version {each.version}, id {each.id}"
        print_changes({title: changes(before, each.definition)}, json=json)
        before = each.definition


async def _versions(settings: Settings, subject: str) -> list[RegisteredSchema]:
    async with registry_in(settings) as registry:
        found = await registry.versions(subject)
    if not found:
        raise SchemaError(f"There is no schema for event type {subject!r} in {name_of(settings)}.")
    return found


def level(
    subject: Annotated[str | None, typer.Argument(help="Event type.", show_default="those without their own")] = None,
    new: Annotated[Compatibility | None, typer.Option("--set", help="The level from now on.")] = None,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Show or set the compatibility level that the registry asks for.

    gatelog schema level OrderPlaced --set FULL_TRANSITIVE
    """
    typer.echo(asyncio.run(_level(options.settings_of(store, home), subject, new)))


async def _level(settings: Settings, subject: str | None, new: Compatibility | None) -> Compatibility:
    async with registry_in(settings) as registry:
        if new is not None:
            await registry.set_level(new, subject)
        return await registry.level(subject)


def register(
    paths: Paths = None,
    models: Models = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without: say what would be done.")] = False,
    json: options.Json = False,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Register what is new, at deploy time: all of it is tried first, and nothing is registered if one would fail.

    gatelog schema register --models shop.events
    gatelog schema register --models shop.events --apply
    """
    settings = options.settings_of(store, home)
    current = definitions_of(sources_of(paths, models, settings))
    for subject, done in asyncio.run(_register(settings, current, apply=apply)).items():
        if json:
            document = {"subject": subject, "version": done.version, "id": done.schema_id, "new": done.new}
            print_json({**document, "applied": apply or not done.new})
        else:
            state = ("registered" if apply else "would be registered") if done.new else "is registered already"
            number = f", id {done.schema_id}" if done.schema_id is not None else ""
            typer.echo(f"{subject}  version {done.version}{number}  {state}")
    if not apply and not json:
        typer.echo("Nothing was registered: this was a dry run. Say --apply to register.")


async def _register(settings: Settings, current: dict[str, AvroSchema], *, apply: bool) -> dict[str, Registration]:
    async with registry_in(settings) as registry:
        tried = await _each(registry, settings, current, dry_run=True)
        return await _each(registry, settings, current, dry_run=False) if apply else tried


async def _each(
    registry: Registry, settings: Settings, current: dict[str, AvroSchema], *, dry_run: bool
) -> dict[str, Registration]:
    done: dict[str, Registration] = {}
    refused: list[IncompatibleSchemaError] = []
    for subject, definition in current.items():
        own = levels_of(settings, [subject], None, {subject: await registry.level(subject)})[subject]
        try:
            done[subject] = await registry.register(subject, definition, _under(own), dry_run=dry_run)
        except IncompatibleSchemaError as error:
            refused.append(error)
    if refused:
        raise SchemaError("\n".join(map(str, refused)))
    return done


def _under(level: Compatibility) -> Check:
    """The settings may ask for more, or less, than the level that the registry has."""
    return lambda _, definition, versions: problems(level, definition, versions)
