"""``gatelog``: the commands, and what their errors look like."""

import inspect
import re
import sys
from collections.abc import Callable
from typing import Final

import typer

from gatelog.console import (
    consuming,
    demo,
    ending,
    events,
    failing,
    imports,
    index_fields,
    indexing,
    parked,
    projections,
    reading,
    reconciling,
    republishing,
    running,
    schema,
    schema_copy,
    schema_files,
    schema_registry,
    schema_replay,
    services,
    serving,
    store,
    verifying,
)
from gatelog.core import logs

_HELP: Final = """An event store on Postgres and Kafka.

A first look, on services that gatelog starts on this machine:

  gatelog up && gatelog init
  gatelog run &
  gatelog append Order-42 OrderPlaced '{"customer": "ann", "total": "9.90"}' --schema order.avsc --expect no-stream
  gatelog read Order-42

Settings come from options, GATELOG_* and gatelog.toml, in this order; GATELOG_POSTGRES_DSN and
GATELOG_KAFKA_BOOTSTRAP_SERVERS point to servers of your own.

Exit codes: 0 done, 1 unexpected, 2 bad input or settings, 3 a service is away, 4 run `gatelog init`,
5 conflict, 6 try again later, 7 the relay stopped, 8 Postgres and Kafka disagree, 9 unreadable data,
10 no such stream, 11 schema, 12 timed out.
"""

app = typer.Typer(
    name="gatelog",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
imported = typer.Typer(help="Import events from elsewhere.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(imported, name="import")
app.add_typer(indexing.app, name="index")
schemas = typer.Typer(
    help="Schemas of events: check, register, generate.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(schemas, name="schema")
app.add_typer(parked.app, name="parked")
app.add_typer(projections.app, name="projection")

_COMMANDS: Final[list[Callable[..., None]]] = [
    services.up,
    services.down,
    store.init,
    store.status,
    running.run,
    running.relay,
    running.indexer,
    serving.serve,
    consuming.consume,
    reconciling.reconcile,
    republishing.republish,
    verifying.verify,
    events.append,
    reading.read,
    events.tail,
    demo.demo,
]
for command in _COMMANDS:
    app.command()(command)
imported.command()(imports.git)
indexing.app.command()(index_fields.fields)
_SCHEMA_COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "check": schema.check,
    "diff": schema.diff,
    "lint": schema.lint_,
    "list": schema_registry.list_,
    "show": schema_registry.show,
    "history": schema_registry.history,
    "level": schema_registry.level,
    "register": schema_registry.register,
    "generate": schema_files.generate,
    "export": schema_files.export,
    "copy": schema_copy.copy_,
    "replay": schema_replay.replay,
}
for name, command in _SCHEMA_COMMANDS.items():
    schemas.command(name)(command)


def _keep_examples(group: typer.Typer) -> None:
    """Click joins the lines of a paragraph; a backspace before examples keeps theirs."""
    group.info.help = _with_examples(group.info.help or "")
    for command in group.registered_commands:
        command.help = _with_examples(inspect.getdoc(command.callback) or "")
    for each in group.registered_groups:
        if each.typer_instance is not None:
            _keep_examples(each.typer_instance)


def _with_examples(text: str) -> str:
    return re.sub(r"\n\n(?= *gatelog )", "\n\n\b\n", text)


_keep_examples(app)


def main() -> None:
    """Run the command line; an error is one clear message on standard error, with its causes, and an exit code."""
    ending.listen()
    logs.configure(json=not sys.stderr.isatty(), level="warning")  # services, which run for long, say more
    try:
        app()
    except BrokenPipeError:  # `gatelog read … | head`
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - an unexpected one is told too, and bounded
        sys.exit(failing.print_failure(error))
