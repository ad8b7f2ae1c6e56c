"""``gatelog index fields``: indexes on fields of payloads."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from gatelog.console import options
from gatelog.console.output import errors, print_json, print_table
from gatelog.core import postgres, shards
from gatelog.core.programs import import_module
from gatelog.core.settings import Settings
from gatelog.indexer.fields import FieldIndexes, index_fields
from gatelog.indexer.places import index_pools
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
        import_module(module)
    wanted = [each for model in defined_models() for each in indexed_fields(model)]
    found = asyncio.run(_index_all(options.settings_of(store, home), wanted, drop))
    if json:
        print_json(asdict(found))
    else:
        undeclared = "dropped" if drop else "not declared any more (--drop removes them)"
        rows = {"made": found.made, "there already": found.kept, undeclared: found.undeclared}
        print_table("Indexed fields", {name: ", ".join(names) or "none" for name, names in rows.items()})


async def _index_all(settings: Settings, wanted: list[IndexedField], drop: bool) -> FieldIndexes:
    """Every shard of the index, one after the other."""
    numbers = range(max(1, len(settings.index_dsns)))
    each = [await _index(settings, number, wanted, drop) for number in numbers]
    made = dict.fromkeys(name for found in each for name in found.made)
    kept = dict.fromkeys(name for found in each for name in found.kept if name not in made)
    return FieldIndexes([*made], [*kept], [*dict.fromkeys(name for found in each for name in found.undeclared)])


async def _index(settings: Settings, shard: int, wanted: list[IndexedField], drop: bool) -> FieldIndexes:
    async with index_pools(settings, shard, "gatelog index fields", 1) as (_, _gate, pool):
        with postgres.translated(settings.store, shards.dsn_of(settings, shard)):
            async with pool.acquire() as connection:
                return await index_fields(
                    connection,
                    settings.store,
                    wanted,
                    drop=drop,
                    progress=lambda name: errors.print(f"Indexing {name} …", highlight=False),
                )
