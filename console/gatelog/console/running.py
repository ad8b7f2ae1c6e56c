"""``gatelog run``, ``relay`` and ``indexer``: the long-lived processes."""

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Annotated, Final

import typer

from gatelog.console import ending, failing, options
from gatelog.core import logs, services
from gatelog.core.settings import Settings
from gatelog.indexer import Indexer
from gatelog.producer.elsewhere.frontier import FrontierKeeper
from gatelog.producer.outbox import OutboxKeeper
from gatelog.producer.relay import Relay

GC_ALLOCATIONS: Final = 100_000  # more than freed, of objects that hold others, until the collector looks

_log = logs.logger("console")

JsonLogs = Annotated[bool, typer.Option("--json-logs", help="Log JSON, one object a line.")]


def run(store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False) -> None:
    """Run relay and indexer together, until SIGTERM or Ctrl-C; then finish what is in hand and stop.

    gatelog run
    gatelog run --store billing --json-logs
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, *_relay(settings), *_indexers(settings, None))


def relay(store: options.Store = None, home: options.Home = None, json_logs: JsonLogs = False) -> None:
    """Run a relay: the outbox to Kafka. Start several on different machines: one is active, the others stand by.

    gatelog relay
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, *_relay(settings))


def indexer(
    store: options.Store = None,
    home: options.Home = None,
    json_logs: JsonLogs = False,
    shard: Annotated[
        int | None, typer.Option("--shard", help="Fill only this one of index_dsns, counted from 0.", min=0)
    ] = None,
) -> None:
    """Run an indexer: Kafka to the index. Start as many as you like: they share the partitions.

    Where the index is spread over several databases (index_dsns), it fills all of them, or one.

      gatelog indexer
      gatelog indexer --shard 1
    """
    settings = options.settings_of(store, home)
    until_signal(json_logs, *_indexers(settings, shard))


def _relay(settings: Settings) -> list[services.Service]:
    frontier = [FrontierKeeper(settings)] if settings.index_dsns else []
    return [Relay(settings), OutboxKeeper(settings), *frontier]


def _indexers(settings: Settings, shard: int | None) -> list[services.Service]:
    numbers = range(max(1, len(settings.index_dsns))) if shard is None else [shard]
    return [Indexer(settings, number) for number in numbers]


def until_signal(json_logs: bool, *running: services.Service) -> None:
    """Run services until SIGTERM or Ctrl-C, with logs for people or, where nobody looks, for programs."""
    is_json = json_logs or not sys.stderr.isatty()
    logs.configure(json=is_json)
    _collect_rarely()
    ending.leave_to_services()
    runner = asyncio.Runner(loop_factory=loop_factory())
    try:
        with failing.logged_as_json(is_json):
            runner.run(services.run_until_signal(*running, on_signal=ending.soon))
    finally:
        if _have_ended(runner.get_loop()):
            runner.close()


def _have_ended(loop: asyncio.AbstractEventLoop) -> bool:
    """Cancel what services have left, as handlers of a program; say whether it ended. A runner would wait for it."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        _done, left = loop.run_until_complete(asyncio.wait(left, timeout=ending.GRACE_S))
    if left:
        _log.error("tasks.left", tasks=sorted(task.get_name() for task in left), hint="they swallow cancellations")
    return not left


def _collect_rarely() -> None:
    """Let the garbage collector walk seldom, and never over what was imported.

    A batch is tens of thousands of objects that live for a moment and hold no cycles. By default the collector walks
    over them, and over everything else, hundreds of times a batch.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 10, 10)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:  # it is in the extra "speed"
        return None
    return new_event_loop
