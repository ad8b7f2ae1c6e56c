"""``gatelog schema copy``: from the store's tables to a server or a file, or back, under the same ids."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gatelog.console import options
from gatelog.console.output import print_json
from gatelog.core import migrations, postgres
from gatelog.core.settings import Settings
from gatelog.schemas.confluent import ConfluentRegistry
from gatelog.schemas.copying import Copied, copy, restore, save
from gatelog.schemas.postgres_registry import PostgresRegistry


def copy_(
    to: Annotated[str | None, typer.Option("--to", metavar="URL|FILE", help="To this registry, or file.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="URL|FILE", help="From it.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="Only this event type; again for more.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Copy schemas between the store's tables in Postgres and a registry or a file, under the same ids and versions.

    What is stored refers to schemas by id: a store can change its registry only if the ids stay. All or nothing is
    copied; a server that cannot keep ids is refused. Copy, then set or remove registry_url. Credentials are those of
    the settings (registry_auth and others). A file (JSON) is a backup: Kafka does not hold the schemas.

      gatelog schema copy --to schemas.json
      gatelog schema copy --from schemas.json
      gatelog schema copy --to https://registry.example:8081 --dry-run
      gatelog schema copy --from https://registry.example:8081 --subject OrderPlaced
    """
    if (to is None) == (from_ is None):
        raise typer.BadParameter("Say one of --to and --from.")
    settings = options.settings_of(store, home)
    copied = asyncio.run(_copy(settings, to, from_, subject, dry_run=dry_run))
    if json:
        print_json({"subjects": copied.subjects, "schemas": copied.schemas, "new": copied.new})
        return
    what = f"{copied.schemas:,} schemas of {copied.subjects:,} event types"
    if copied.new is None:
        typer.echo(f"would copy {what}")
    else:
        typer.echo(f"copied {what}, {copied.new:,} of them new; ids and versions are the same")


async def _copy(
    settings: Settings, to: str | None, from_: str | None, subjects: list[str] | None, *, dry_run: bool
) -> Copied:
    async with postgres.pool(settings.dsn, settings.store, "gatelog schema copy", 1) as pool:
        with postgres.translated(settings.store, settings.dsn):
            async with pool.acquire() as connection:
                await migrations.check(connection, settings.store, "gatelog.schemas")
        tables = PostgresRegistry(settings, pool)
        place = to or from_ or ""
        if "://" not in place:
            if to is not None:
                return await save(tables, Path(place), subjects, dry_run=dry_run)
            return await restore(Path(place), tables, subjects, dry_run=dry_run)
        server = ConfluentRegistry(settings.model_copy(update={"registry_url": place}))
        if to is not None:
            return await copy(tables, server, subjects, dry_run=dry_run)
        return await copy(server, tables, subjects, dry_run=dry_run)
