"""``gatelog up`` and ``down``: Postgres, Kafka and, where wanted, a schema registry on this machine."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatelog.console import options
from gatelog.console.output import print_json, print_table
from gatelog.console.progress import StageBars, bars
from gatelog.core.settings import ENDPOINTS_FILE, Settings

if TYPE_CHECKING:
    from gatelog.local import Endpoints, LocalServices

_ENDPOINTS = """\
# Written by `gatelog up`, removed by `gatelog down`. Arguments, GATELOG_* and gatelog.toml come first.
postgres_dsn = "{dsn}"
{registry}
[kafka]
"bootstrap.servers" = "{servers}"
"""


def up(
    registry: Annotated[
        bool, typer.Option("--registry", help="Start a schema registry too; from then on in every `gatelog up`.")
    ] = False,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Start PostgreSQL and Kafka on this machine, in the background, without Docker; return when they are ready.

    The first start downloads Kafka (46 MB), and the registry (159 MB), from Maven Central into a cache.
    Everything listens on loopback only; all state is in one folder. Running it again changes nothing.

      gatelog up
      gatelog up --registry
      gatelog up --home /tmp/another-one
    """
    endpoints = start(home_of(home), registry=registry)
    found = {"postgres_dsn": endpoints.postgres_dsn, "kafka_bootstrap_servers": endpoints.kafka_bootstrap_servers}
    if endpoints.registry_url:
        found["registry_url"] = endpoints.registry_url
    if json:
        print_json(found)
    else:
        print_table("Running", {f"GATELOG_{name.upper()}": value for name, value in found.items()})


def down(home: options.Home = None) -> None:
    """Stop what `gatelog up` started. Their data stays.

    gatelog down
    """
    stop(home_of(home))


def home_of(home: Path | None) -> Path:
    """Return the state folder in force, absolute: daemons do not share our working directory."""
    return Settings.load(home=home).home.resolve()


def local(home: Path) -> "LocalServices":
    """Return the services of a state folder. Imported here: servers of your own need no `gatelog[local]`.

    Raises:
        LocalServiceError: `gatelog[local]` is not installed.
    """
    from gatelog.local import LocalServices

    return LocalServices(home)


def start(home: Path, *, registry: bool = False) -> "Endpoints":
    """Start what is not running in ``home``, and leave the endpoints where the settings look for them."""
    with bars() as progress:
        endpoints = local(home).up(registry=registry, progress=StageBars(progress))
    text = _ENDPOINTS.format(
        dsn=endpoints.postgres_dsn,
        servers=endpoints.kafka_bootstrap_servers,
        registry=f'registry_url = "{endpoints.registry_url}"\n' if endpoints.registry_url else "",
    )
    file = home / ENDPOINTS_FILE
    if not file.exists() or tomllib.loads(file.read_text(encoding="utf-8")) != tomllib.loads(text):
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
    return endpoints


def stop(home: Path) -> None:
    """Stop what runs in ``home``."""
    local(home).down()
    (home / ENDPOINTS_FILE).unlink(missing_ok=True)
