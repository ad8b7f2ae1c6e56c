"""``gatelog index fields``: indexes on fields of payloads."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from gatelog.console import options
from gatelog.console.models import import_models
from gatelog.console.output import errors, print_json, print_table
from gatelog.core import migrations, postgres
from gatelog.core.settings import Settings
from gatelog.indexer.fields import FieldIndexes, index_fields
from gatelog.schemas.event import defined_models
from gatelog.schemas.indexed import IndexedField, indexed_fields


def fields(
    modules: Annotated[list[str], typer.Argument(help="Python modules that define the events, as shop.events.")],
    drop: Annotated[bool, typer.Option("--drop", help="Remove indexes that no model declares any more.")] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Index the fields that models declare with Indexed(): customer: Annotated[str, Indexed()].

    Conditions on them (where=) are then answered at once. Everything goes on meanwhile; run it at each deploy.

      gatelog index fields shop.events
      gatelog index fields shop.events shop.stock --drop
    """
    for module in modules:
        import_models(module)
    wanted = [each for model in defined_models() for each in indexed_fields(model)]
    found = asyncio.run(_index(options.settings_of(store, home), wanted, drop))
    if json:
        print_json(asdict(found))
    else:
        undeclared = "dropped" if drop else "not declared any more (--drop removes them)"
        rows = {"made": found.made, "there already": found.kept, undeclared: found.undeclared}
        print_table("Indexed fields", {name: ", ".join(names) or "none" for name, names in rows.items()})


async def _index(settings: Settings, wanted: list[IndexedField], drop: bool) -> FieldIndexes:
    connection = await postgres.connect(settings.dsn, settings.store, "gatelog index fields")
    try:
        with postgres.translated(settings.store, settings.dsn):
            await migrations.check(connection, settings.store, "gatelog.indexer")
            return await index_fields(
                connection,
                settings.store,
                wanted,
                drop=drop,
                progress=lambda name: errors.print(f"Indexing {name} …", highlight=False),
            )
    finally:
        await connection.close()
