"""``gatelog schema …``: check, diff, lint, register, look up, and go between models and ``.avsc`` files."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from gatelog.console import options
from gatelog.console.schema_output import Format, print_changes, print_findings
from gatelog.core import postgres
from gatelog.core.errors import SchemaError
from gatelog.core.settings import Settings
from gatelog.schemas.checking import check_all
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.difference import changes
from gatelog.schemas.earlier import Earlier, earlier_in_git, earlier_in_registry
from gatelog.schemas.findings import Severity
from gatelog.schemas.lint import LintRule, lint
from gatelog.schemas.postgres_registry import PostgresRegistry
from gatelog.schemas.registry import AvroSchema, Compatibility, Registry
from gatelog.schemas.sources import Sources, definitions_of

Paths = Annotated[
    list[Path] | None, typer.Argument(metavar="[PATH]…", help=".avsc files, or folders of them.", show_default=False)
]
Models = Annotated[
    list[str] | None, typer.Option("--models", help="Module that defines events; again for more.", show_default=False)
]
Against = Annotated[
    str | None, typer.Option("--against", metavar="REF", help="A git ref.", show_default="the registry in force")
]
Output = Annotated[Format, typer.Option("--format", help="For people, programs, or GitHub's annotations.")]


def sources_of(paths: list[Path] | None, models: list[str] | None, settings: Settings) -> Sources:
    """Return what the command line names, else what ``[schemas]`` of the settings names.

    Raises:
        SchemaError: neither names anything.
    """
    given = Sources(tuple(paths or ()), tuple(models or ()))
    found = given or Sources(settings.schemas.files, settings.schemas.models)
    if not found:
        raise SchemaError(
            "Which schemas? Name .avsc files or folders, or --models MODULE; or set files and models under [schemas] "
            "in gatelog.toml."
        )
    return found


@asynccontextmanager
async def registry_in(settings: Settings) -> AsyncIterator[Registry]:
    """Yield the registry in force; a server needs no Postgres."""
    if settings.registry_url is not None:
        yield ConfluentRegistry(settings)
        return
    async with postgres.pool(settings.dsn, settings.store, "gatelog schema", 1) as pool:
        yield PostgresRegistry(settings, pool)


def name_of(settings: Settings) -> str:
    """Return how messages call the registry in force."""
    return f"store {settings.store}" if settings.registry_url is None else settings.registry_url


def check(
    paths: Paths = None,
    models: Models = None,
    against: Against = None,
    level: Annotated[
        Compatibility | None, typer.Option(help="For all subjects.", show_default="settings, then the registry's")
    ] = None,
    output: Output = Format.TEXT,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Find changes that break stored events, or programs that have an earlier version. Exit code 11 if there are any.

    gatelog schema check schemas/ --against main
    gatelog schema check --models shop.events --level FULL_TRANSITIVE --format github
    """
    settings = options.settings_of(store, home)
    sources = sources_of(paths, models, settings)
    current = definitions_of(sources)
    earlier, levels = asyncio.run(_earlier(settings, sources, current, against, level))
    found = check_all(current, earlier.versions, levels, removed=earlier.removed)
    known = [subject for subject in current if earlier.versions.get(subject)]
    summary = f"{len(current)} event types, {len(current) - len(known)} of them new, compared with {earlier.where}"
    print_findings(found, output, summary, earlier.unread)
    _end(any(each.severity is Severity.ERROR for each in found))


def diff(
    paths: Paths = None,
    models: Models = None,
    against: Against = None,
    json: options.Json = False,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Show what changed, field by field. Whether it may change is what `gatelog schema check` says.

    gatelog schema diff schemas/ --against main
    """
    settings = options.settings_of(store, home)
    sources = sources_of(paths, models, settings)
    current = definitions_of(sources)
    earlier, _ = asyncio.run(_earlier(settings, sources, current, against, Compatibility.NONE))
    last: dict[str, AvroSchema] = {s: versions[-1].definition for s, versions in earlier.versions.items() if versions}
    subjects = sorted(current.keys() | earlier.removed.keys())
    print_changes({subject: changes(last.get(subject), current.get(subject)) for subject in subjects}, json=json)


def lint_(
    paths: Paths = None,
    models: Models = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="REF", help="A git ref: fields added since need defaults.")
    ] = None,
    ignore: Annotated[list[LintRule] | None, typer.Option(help="A rule to leave out; again for more.")] = None,
    output: Output = Format.TEXT,
    store: options.Store = None,
    home: options.Home = None,
) -> None:
    """Find missing docs, names out of style, and what makes the next change hard. Exit code 11 if there is any.

    gatelog schema lint schemas/ --against main --ignore TYPE_DOC
    """
    settings = options.settings_of(store, home)
    sources = sources_of(paths, models, settings)
    current = definitions_of(sources)
    without = {*(ignore or ()), *_known_rules(settings.schemas.lint_ignore)}
    versions = {}
    if against is not None:
        levels = dict.fromkeys(current, Compatibility.NONE)
        versions = earlier_in_git(Path.cwd(), against, sources, current, levels).versions
    found = [each for name, schema in current.items() for each in lint(name, schema, versions.get(name, ()), without)]
    print_findings(found, output, f"{len(current)} event types")
    _end(bool(found))


def levels_of(
    settings: Settings, subjects: Iterable[str], level: Compatibility | None, registry: dict[str, Compatibility]
) -> dict[str, Compatibility]:
    """Return each subject's level: the command line's, the settings', the registry's, else BACKWARD."""
    own = settings.schemas

    def of(subject: str) -> Compatibility:
        name = level or own.subjects.get(subject) or own.compatibility
        return Compatibility(name) if name else registry.get(subject, Compatibility.BACKWARD)

    return {subject: of(subject) for subject in subjects}


async def _earlier(
    settings: Settings,
    sources: Sources,
    current: dict[str, AvroSchema],
    against: str | None,
    level: Compatibility | None,
) -> tuple[Earlier, dict[str, Compatibility]]:
    if against is not None:
        levels = levels_of(settings, current, level, {})
        found = await asyncio.to_thread(earlier_in_git, Path.cwd(), against, sources, current, levels)
        return found, levels | levels_of(settings, found.removed, level, {})
    async with registry_in(settings) as registry:
        found = await earlier_in_registry(registry, name_of(settings), current)
        own = {subject: await registry.level(subject) for subject in current}
        return found, levels_of(settings, current, level, own)


def _known_rules(names: tuple[str, ...]) -> list[LintRule]:
    unknown = [name for name in names if name not in set(LintRule)]
    if unknown:
        raise SchemaError(f"lint_ignore names rules that do not exist: {', '.join(unknown)}.")
    return [LintRule(name) for name in names]


def _end(found: bool) -> None:
    if found:
        raise typer.Exit(SchemaError.exit_code)
