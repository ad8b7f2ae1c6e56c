"""``gatelog reconcile``: when Postgres and Kafka disagree."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import orjson
import typer

from gatelog.console import options
from gatelog.console.output import document_of, print_json, print_table
from gatelog.core import postgres
from gatelog.core.settings import Settings
from gatelog.producer.findings import Findings
from gatelog.producer.reconcile import reconciliation
from gatelog.schemas import RecordedEvent
from gatelog.schemas.codec import Codec
from gatelog.schemas.registries import registry_of

DISAGREE: Final = 8


def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="Repair it; without this, only look.")] = False,
    drop_conflicting: Annotated[
        bool, typer.Option("--drop-conflicting", help="Write events that cannot be kept to a file and remove them.")
    ] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Compare what Postgres says was published with what Kafka holds, and make Postgres follow Kafka.

    For a database that was restored from a backup, moved by dump and restore, or lost commits in a failover. Stop
    the relays first. Without --apply nothing is changed, and the exit code is 8 if something differs. --apply needs
    the role that owns the tables, the one that ran `gatelog init`.

      gatelog reconcile
      gatelog reconcile --apply
      gatelog reconcile --apply --drop-conflicting
    """
    settings = options.settings_of(store, home)
    if drop_conflicting and not apply:
        raise typer.BadParameter("--drop-conflicting goes with --apply only")
    dropped = _Dropped(settings) if drop_conflicting else None
    found = asyncio.run(_run(settings, apply=apply, dropped=dropped))
    file = str(dropped.path) if dropped is not None and dropped.events else None
    if json:
        print_json({**asdict(found), "agree": found.agree, "applied": apply and not found.agree, "dropped_to": file})
    else:
        _show(settings.store, found, applied=apply, file=file)
    if not (found.agree or apply):
        raise typer.Exit(DISAGREE)


async def _run(settings: Settings, *, apply: bool, dropped: "_Dropped | None") -> Findings:
    async with reconciliation(settings) as made:
        if not apply:
            return await made.look()
        return await made.apply(dropped.write if dropped is not None else None)


class _Dropped:
    """A file of events that were removed, one JSON document a line. It is on the disk before they are gone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.path = Path.cwd() / f"gatelog-dropped-{settings.store}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
        self.events = 0

    async def write(self, rows: Sequence[asyncpg.Record]) -> None:
        settings = self._settings
        async with postgres.pool(settings.dsn, settings.store, "gatelog reconcile", 1) as pool:
            codec = Codec(registry_of(settings, pool), register=False)
            await codec.warm({row["schema_id"] for row in rows})
        lines = [orjson.dumps(_document(row, codec), default=str) + b"\n" for row in rows]
        with self.path.open("ab") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        self.events += len(rows)


def _document(row: asyncpg.Record, codec: Codec) -> dict[str, Any]:
    names = ("correlation_id", "causation_id", "traceparent", "metadata", "schema_id", "data")
    before = (row["stream"], row["version"], None, row["event_id"], row["type"], row["recorded_at"])
    event = RecordedEvent((*before, *(row[name] for name in names)), codec)
    whole = {"traceparent": event.traceparent, "schema_id": event.schema_id, "raw": event.raw.hex()}
    return {**document_of(event), **whole}


def _show(store: str, found: Findings, *, applied: bool, file: str | None) -> None:
    facts = {
        "published by Postgres": f"up to position {found.position:,}"
        + (f", and a tick of {found.pending:,} events with unknown outcome" if found.pending else ""),
        "in Kafka": f"up to position {found.kafka_position:,}",
    }
    if found.restored:
        facts["restored"] = (
            "tables come from a dump, or were lost and made anew: what they say of Kafka means nothing"
        )
    if found.lost:
        facts["only in Kafka"] = f"{found.lost:,} events, {_some(found.lost_examples)}"
    if found.tick_lacks:
        facts["pending tick"] = f"{found.tick_lacks:,} of its events are nowhere"
    facts["due"] = f"{found.due:,} events of the outbox are not in Kafka"
    if found.conflicting:
        facts["conflicting"] = (
            f"{found.conflicting:,} events of the outbox stand where Kafka has others, or behind events that are "
            f"lost, {_some(found.conflicting_examples)}"
        )
    for number, obstacle in enumerate(found.obstacles, 1):
        facts[f"obstacle {number}"] = obstacle
    if found.foreign:
        facts["foreign records"] = f"{found.foreign:,}, passed over: {found.foreign_examples[0]}"
    if found.aside:
        facts["set aside"] = f"{found.aside:,} records were set aside by indexers, and count here"
    if found.copies:
        facts["copies"] = f"{found.copies:,} records repeat others, passed over"
    if found.unreadable:
        facts["unreadable records"] = f"{found.unreadable:,}, passed over: {found.unreadable_examples[0]}"
    print_table(f"Store {store!r}", facts)
    typer.echo(_outcome(found, applied=applied, file=file))


def _some(examples: Sequence[object]) -> str:
    return "for example " + ", ".join(map(str, examples))


def _outcome(found: Findings, *, applied: bool, file: str | None) -> str:
    if found.agree:
        return "They agree: nothing to do."
    removed = f" {found.conflicting:,} conflicting events were removed; they are in {file}." if file else ""
    follows = f"position {found.kafka_position:,}; {found.due:,} events are published next"
    if applied:
        retry = " Then run `gatelog index retry` for what indexers have set aside." if found.aside else ""
        return f"Repaired: Postgres follows Kafka up to {follows}.{removed} Start the relay and the indexer.{retry}"
    if found.obstacles:
        return "`gatelog reconcile` cannot repair this: see the obstacles. Nothing was changed."
    flag = " --drop-conflicting" if found.conflicting else ""
    return f"Nothing was changed. `gatelog reconcile --apply{flag}` makes Postgres follow Kafka up to {follows}." + (
        f" It writes the {found.conflicting:,} conflicting events to a file and removes them." if flag else ""
    )
