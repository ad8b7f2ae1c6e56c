"""Options that several commands take, and the settings that follow from them."""

from pathlib import Path
from typing import Annotated

import typer

from gatelog.core.settings import Settings

Store = Annotated[
    str | None,
    typer.Option("--store", help="Name of the store.", envvar="GATELOG_STORE", show_default="gatelog"),
]
Home = Annotated[
    Path | None,
    typer.Option("--home", help="State folder of local services.", envvar="GATELOG_HOME", show_default=".gatelog"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document a line.")]


def settings_of(store: str | None, home: Path | None) -> Settings:
    """Return the settings in force for a command.

    Raises:
        SettingsError: a value is missing or wrong.
    """
    return Settings.load(store=store, home=home)
