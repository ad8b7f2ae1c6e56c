"""``gatelog run``, ``relay`` and ``indexer``: the long-lived processes."""

import asyncio
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from gatelog.console import options
from gatelog.core import logs, services
from gatelog.indexer import Indexer
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log JSON, one object a line.")]


def run(store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False) -> None:
    """Run relay and indexer together, until SIGTERM or Ctrl-C; then finish what is in hand and stop.

    gatelog run
    gatelog run --store billing --json-logs
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, Relay(settings), OutboxKeeper(settings), Indexer(settings))


def relay(store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False) -> None:
    """Run a relay: the outbox to Kafka. Start several on different machines: one is active, the others stand by.

    gatelog relay
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, Relay(settings), OutboxKeeper(settings))


def indexer(store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False) -> None:
    """Run an indexer: Kafka to the index. Start as many as you like: they share the partitions.

    gatelog indexer
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, Indexer(settings))


def until_signal(json_logs: bool, *running: services.Service) -> None:
    """Run services until SIGTERM or Ctrl-C, with logs for people or, where nobody looks, for programs."""
    logs.configure(json=json_logs or not sys.stderr.isatty())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(services.run_until_signal(*running))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # it is in the extra "speed"
        return None
    return new_event_loop
