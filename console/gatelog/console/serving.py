"""``gatelog serve``: the store's schemas over the HTTP API of a schema registry."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from gatelog.console import options
from gatelog.console.running import JsonLogs, until_signal
from gatelog.core import logs, migrations, postgres
from gatelog.core.errors import SettingsError
from gatelog.core.settings import Settings
from gatelog.schemas.registries import registry_of

_CONNECTIONS_MAX: Final = 4
_REQUESTS_MAX: Final = 200  # at once; more are told to come again
_HEADER_BYTES_MAX: Final = 64 * 1024
_SHUTDOWN_TIMEOUT_S: Final = 5
_log = logs.logger("serve")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.", min=0, max=65535)] = 8081,
    store: options.Store = None,
    home: options.Home = None,
    json_logs: JsonLogs = False,
) -> None:
    """Serve the store's schemas, read-only, over the HTTP API of Confluent's schema registry.

    For tools and consumers in other languages, of a store that keeps its schemas in Postgres: give them
    http://HOST:PORT as the registry. GET /health says whether Postgres answers. There is no password: whoever can
    connect can read the schemas, and change nothing.

      gatelog serve
      gatelog serve --host 0.0.0.0 --port 8081
    """
    until_signal(json_logs, SchemaServer(options.settings_of(store, home), host, port))


class SchemaServer:
    """The API of ``gatelog.schemas.http_api`` on a socket, as a service."""

    name = "serve"

    def __init__(self, settings: Settings, host: str, port: int) -> None:
        """Listen at once, so that a taken port is an error of the start.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        self._settings = settings
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, UnicodeError) as error:
            raise SettingsError(
                f"Cannot listen on {host} port {port}: {error}. Take another --host or --port."
            ) from error
        found = self._socket.getsockname()
        self.url = f"http://{f'[{found[0]}]' if family == socket.AF_INET6 else found[0]}:{found[1]}"

    async def run(self, stop: asyncio.Event) -> None:
        """Answer until ``stop`` is set; requests under way are finished.

        Raises:
            SettingsError: ``gatelog[serve]`` is not installed.
            StoreNotInitialisedError: ``gatelog init`` has not been run.
        """
        settings = self._settings
        with self._socket:
            async with postgres.pool(settings.dsn, settings.store, "gatelog serve", _CONNECTIONS_MAX) as pool:
                with postgres.translated(settings.store, settings.dsn):
                    async with pool.acquire() as connection:
                        await migrations.check(connection, settings.store, "gatelog.schemas")
                await self._serve(pool, stop)

    async def _serve(self, pool: postgres.Pool, stop: asyncio.Event) -> None:
        try:
            import uvicorn

            from gatelog.schemas.http_api import application
        except ImportError as error:
            raise SettingsError("`gatelog serve` needs `pip install gatelog[serve]`.") from error

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield  # whoever runs services stops them

        configuration = uvicorn.Config(
            application(registry_of(self._settings, pool)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            http="h11",
            limit_concurrency=_REQUESTS_MAX,
            h11_max_incomplete_event_size=_HEADER_BYTES_MAX,
            timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
        )
        server = Server(configuration)
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        _log.info("serve.listening", url=self.url)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        waiting.cancel()
        await serving
