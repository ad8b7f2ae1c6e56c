"""Options that several commands take, and the settings that follow from them."""

from pathlib import Path
from typing import Annotated

import typer

from gatelog.core.errors import SettingsError
from gatelog.core.settings import Settings

Store = Annotated[
    str | None,
    typer.Option("--store", help="Name of the store.", envvar="GATELOG_STORE", show_default="gatelog"),
]
Home = Annotated[
    Path | None,
    typer.Option("--home", help="State folder of local services.", envvar="GATELOG_HOME", show_default=".gatelog"),
]
Shard = Annotated[
    int | None,
    typer.Option("--shard", help="Which of index_dsns, counted from 0; needed when there are several.", min=0),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document a line.")]


def shard_of(settings: Settings, given: int | None) -> int:
    """Return the shard of the index that a command works on: the one that was named, or the only one.

    Raises:
        SettingsError: there are several, and none was named.
    """
    if given is None and len(settings.index_dsns) > 1:
        raise SettingsError(f"The index has several shards: name one, --shard 0 to {len(settings.index_dsns) - 1}.")
    return given or 0


def settings_of(store: str | None, home: Path | None) -> Settings:
    """Return the settings in force for a command.

    Raises:
        SettingsError: a value is missing or wrong.
    """
    return Settings.load(store=store, home=home)
