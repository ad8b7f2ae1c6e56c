"""``gatelog init`` and ``status``: a store's tables, and where everything stands."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from gatelog.console import options, services
from gatelog.console.output import print_json, print_table
from gatelog.core import migrations, postgres
from gatelog.core.errors import GatelogError
from gatelog.core.migrations import Migration
from gatelog.core.settings import Settings
from gatelog.indexer import status as index_status
from gatelog.producer import status as producer_status
from gatelog.reader import Standing, standings

PARTS: Final = (
    "gatelog.schemas",
    "gatelog.producer",
    "gatelog.indexer",
    "gatelog.reader.folds",
    "gatelog.reader.subscriptions",
    "gatelog.reader",
)


def init(store: options.Store = None, home: options.Home = None, json: options.Json = False) -> None:
    """Create a store's tables in Postgres, or bring them up to date. Safe to run again, and by many at once.

    gatelog init
    gatelog init --store billing
    """
    settings = options.settings_of(store, home)
    applied = [f"{m.part}/{m.number:04}_{m.name}" for m in asyncio.run(initialise(settings))]
    if json:
        print_json({"store": settings.store, "applied": applied})
    else:
        print_table(f"Store {settings.store!r}", {"applied": ", ".join(applied) or "nothing, it is up to date"})


async def initialise(settings: Settings) -> list[Migration]:
    """Apply every part's migrations that are missing, and return them."""
    connection = await postgres.connect(settings.dsn, settings.store, "gatelog init")
    try:
        with postgres.translated(settings.store, settings.dsn):
            wanted = [migration for part in PARTS for migration in migrations.of(part)]
            return await migrations.apply(connection, settings.store, wanted)
    finally:
        await connection.close()


def status(store: options.Store = None, home: options.Home = None, json: options.Json = False) -> None:
    """Show where everything stands: local services, outbox, relay, index, subscriptions.

    Exit code 0 when the store answers; otherwise that of the error shown.

      gatelog status
      gatelog status --json
    """
    settings = options.settings_of(store, home)
    report: dict[str, Any] = {"store": settings.store, "services": _services(services.home_of(home))}
    problem: GatelogError | None = None
    try:
        report |= asyncio.run(_tables(settings))
    except GatelogError as error:
        problem = error
    _show(report, json=json)
    if problem is not None:
        raise problem


def _services(home: Path) -> list[dict[str, Any]]:
    return [asdict(service) for service in services.local(home).status()] if home.exists() else []


async def _tables(settings: Settings) -> dict[str, Any]:
    connection = await postgres.connect(settings.dsn, settings.store, "gatelog status")
    try:
        with postgres.translated(settings.store, settings.dsn):
            produced = await producer_status.status(connection, settings.store)
            indexed = await index_status.status(connection, settings.store)
            subscribed = await standings(settings, connection)
    finally:
        await connection.close()
    lag = produced.position - indexed.frontier
    return {
        "producer": asdict(produced),
        "index": asdict(indexed),
        "index_lag_events": lag,
        "subscriptions": [_subscription(each) for each in subscribed],
    }


def _subscription(standing: Standing) -> dict[str, Any]:
    members = [{**asdict(member), "trouble": member.trouble} for member in standing.members]
    return {**asdict(standing), "is_active": standing.is_active, "members": members}


def _subscription_line(each: dict[str, Any]) -> str:
    members = f"{len(each['members'])} members" if each["is_active"] else "not running"
    lag = "lag unknown: no answer from Kafka"
    if each["lag_positions"] is not None:
        lag = f"{each['lag_positions']:,} positions behind, {each['lag_s']:.1f} s; {each['parked']:,} parked"
    trouble = "".join(f"; pid {m['pid']} on {m['host']}: {m['trouble']}" for m in each["members"] if m["trouble"])
    return f"{members}, {lag}{trouble}"


def _show(report: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(report)
        return
    for service in report["services"]:
        state = "ready" if service["ready"] else "not ready" if service["running"] else "stopped"
        place = f" on port {service['port']}, pid {service['pid']}" if service["running"] else ""
        print_table(f"{service['name']}: {state}{place}", {"log": str(service["log"])})
    if "producer" in report:
        produced, indexed = report["producer"], report["index"]
        oldest = produced["outbox_oldest_s"]
        print_table(
            f"Store {report['store']!r}",
            {
                "outbox": f"{produced['outbox_events']:,} events"
                + (f", the oldest for {oldest:.1f} s" if oldest is not None else ""),
                "relay": f"{_active(produced['relay_is_active'])}, position {produced['position']:,}, "
                f"tick {produced['tick']:,}",
                "index": f"{_active(indexed['indexer_is_active'])}, frontier {indexed['frontier']:,}, "
                f"{report['index_lag_events']:,} events behind the relay",
                "unreadable records": f"{indexed['unreadable']:,}",
            },
        )
        if report["subscriptions"]:
            rows = {each["name"]: _subscription_line(each) for each in report["subscriptions"]}
            print_table("Subscriptions", rows)


def _active(is_active: bool) -> str:
    return "active" if is_active else "not running"
