"""``gatelog init`` and ``status``: a store's tables, and where everything stands."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer

from gatelog.console import identities, losses, options, services
from gatelog.console.output import print_json, print_table
from gatelog.core import dsns, identity, kafka, mending, migrations, postgres, shards
from gatelog.core.errors import GatelogError, IndexPlaceError
from gatelog.core.identity import Identified, identified
from gatelog.core.mending import Finish, Outcome
from gatelog.core.migrations import Migration
from gatelog.core.namesakes import Namesakes
from gatelog.core.services import ended
from gatelog.core.settings import Settings
from gatelog.indexer import shard
from gatelog.indexer import status as index_status
from gatelog.indexer.status import IndexStatus
from gatelog.producer import elsewhere
from gatelog.producer import status as producer_status
from gatelog.reader import Standing, projection_standings, standings

READER_PARTS: Final = ("gatelog.reader.folds", "gatelog.reader.subscriptions", "gatelog.reader")
PARTS: Final = (identity.PACKAGE, "gatelog.schemas", "gatelog.producer", "gatelog.indexer", *READER_PARTS)
GATE_PARTS: Final = (
    identity.PACKAGE, shards.PACKAGE, "gatelog.schemas", "gatelog.producer", elsewhere.PACKAGE, *READER_PARTS,
)  # fmt: skip
SHARD_PARTS: Final = (shards.PACKAGE, "gatelog.schemas", "gatelog.indexer", shard.PACKAGE)  # schemas: for a function
INCOMPLETE: Final = 4


def init(
    adopt_index: Annotated[
        bool,
        typer.Option("--adopt-index", help="The gate's database was lost: take the index in index_dsns as it is."),
    ] = False,
    id_: Annotated[
        UUID | None,
        typer.Option("--id", help="The gate's database was lost: the store's id, which its records in Kafka carry."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; say what would be made. Exit code 4 if anything would.")
    ] = False,
    store: options.Store = None,
    home: options.Home = None,
    json: options.Json = False,
) -> None:
    """Create a store's tables in Postgres, or bring them up to date. Safe to run again, and by many at once.

    It compares what is there with what it would make: what was lost or changed is named, and made anew where that is
    safe; what is to be done next is said. The exit code is 4 if something is left that it cannot repair.

      gatelog init
      gatelog init --check
      gatelog init --store billing
    """
    settings = options.settings_of(store, home)
    done = asyncio.run(examine(settings) if check else bring_up(settings, adopt_index=adopt_index, store_id=id_))
    made = [f"{m.part}/{m.number:04}_{m.name}" for each in done for m in each.applied]
    mended = [str(found) for each in done for found in each.mended]
    left = [str(found) for each in done for found in each.left]
    steps = [step for each in done for step in each.next_steps]
    if json:
        print_json({"store": settings.store, "applied": made, "mended": mended, "left": left, "next_steps": steps})
    else:
        would = "would be " if check else ""
        facts = {f"{would}applied": made, f"{would}made or repaired": mended, "cannot be repaired": left}
        shown = {title: ", ".join(rows) for title, rows in facts.items() if rows}
        print_table(f"Store {settings.store!r}", shown or {"applied": "nothing, it is up to date"})
        for number, step in enumerate(steps, 1):
            typer.echo(f"Next, {number}: {step}")
    if left or (check and (made or mended or steps)):
        raise typer.Exit(INCOMPLETE)


async def initialise(
    settings: Settings, *, adopt_index: bool = False, store_id: UUID | None = None
) -> list[Migration]:
    """Make what is missing, in all databases of a store, and return the migrations that were; see ``bring_up``."""
    done = await bring_up(settings, adopt_index=adopt_index, store_id=store_id)
    return [migration for each in done for migration in each.applied]


async def bring_up(settings: Settings, *, adopt_index: bool = False, store_id: UUID | None = None) -> list[Outcome]:
    """Make what every part's migrations make, in the gate's database and in those of the index, where it is missing.

    ``adopt_index``: a gate that is new takes over the shards of one that was lost. ``store_id``: it takes the place
    of that store, whose records are in Kafka; without, a new store gets an id of its own.

    Raises:
        ForeignStoreError: the store is new here, and Kafka holds topics of another one of its name.
        InitRefusedError: the store has another id already, or has lost the one that it had.
        IndexPlaceError: a database is not what the settings say; nothing was changed there.
    """
    keys = await _keys_of_shards(
        settings, check=adopt_index
    )  # first: who makes the store at this moment begins with the gate
    done = [await _initialise_gate(settings, keys, store_id, adopt_index=adopt_index)]
    return done + [await _initialise_shard(settings, number) for number in range(len(settings.index_dsns))]


async def examine(settings: Settings) -> list[Outcome]:
    """Say what ``bring_up`` would find, and change nothing."""
    found = []
    for number, dsn in ((None, settings.dsn), *enumerate(settings.shard_dsns)):
        async with _connection(settings, dsn, "gatelog init") as connection:
            found.append(await _apply(connection, settings, number, check=True))
    return found


async def _keys_of_shards(settings: Settings, *, check: bool) -> dict[int, UUID]:
    keys = {}
    for number, dsn in enumerate(settings.shard_dsns):
        async with _connection(settings, dsn, "gatelog init") as connection:
            if check:
                await shards.refuse_other(connection, settings, number, None)
            if (key := await shards.key_of(connection, settings)) is not None:
                keys[number] = key
    return keys


async def _initialise_gate(
    settings: Settings, keys: dict[int, UUID], given: UUID | None, *, adopt_index: bool
) -> Outcome:
    async with _connection(settings, settings.dsn, "gatelog init") as connection:
        there = await shards.tables(connection, settings.store)
        shards.refuse_other_place(settings, there)
        if not settings.index_dsns:
            return await _make_gate(connection, settings, given)
        await shards.refuse_other(connection, settings, None, None)
        if keys and not there.is_pinned and not adopt_index:
            raise IndexPlaceError(
                settings.store,
                f"the gate's database is new, but index_dsns number {min(keys)} belongs to another store of this "
                "name. If that store's gate was lost, and this one is to take its place: `gatelog init "
                "--adopt-index`, then `gatelog reconcile`: see docs/scaling.md. If all of it is gone, drop it.",
            )
        if adopt_index and (there.is_pinned or len(set(keys.values())) != 1):
            raise IndexPlaceError(
                settings.store,
                "there is nothing to adopt: the gate's database is not new."
                if there.is_pinned
                else "the databases of index_dsns do not hold the index of one store: nothing was adopted.",
            )
        pinned = await shards.pinned_key(connection, settings)
        adopted = min(keys.values()) if adopt_index else None
        done = await _make_gate(connection, settings, pinned or adopted or given)
        await shards.pin(connection, settings, None, await identity.known(connection, settings.store))
        return done


async def _make_gate(connection: postgres.Connection, settings: Settings, given: UUID | None) -> Outcome:
    """Make the tables, and write down which store they are of, both or neither."""
    steps = await identities.look_at_kafka(connection, settings, given)
    done = await _apply(connection, settings, None, identities.settle(settings, given))
    return replace(done, next_steps=done.next_steps + steps)


async def _initialise_shard(settings: Settings, number: int) -> Outcome:
    async with _connection(settings, settings.dsn, "gatelog init") as gate:
        key = await shards.check_gate(gate, settings)
    dsn = settings.shard_dsns[number]
    async with _connection(settings, dsn, "gatelog init") as connection:
        if (await shards.tables(connection, settings.store)).has_gate:
            raise IndexPlaceError(
                settings.store,
                f"index_dsns number {number} ({dsns.where(dsn)}) is a gate's database. A shard of the index "
                "needs one of its own.",
            )
        await shards.refuse_other(connection, settings, number, key)
        done = await _apply(connection, settings, number)
        await shards.pin(connection, settings, number, key)
        return done


async def _nothing(_connection: postgres.Connection, _applied: list[Migration]) -> None:
    """A shard has its store's key in another table."""


async def _apply(
    connection: postgres.Connection,
    settings: Settings,
    number: int | None,
    finish: Finish = _nothing,
    *,
    check: bool = False,
) -> Outcome:
    parts = SHARD_PARTS if number is not None else GATE_PARTS if settings.index_dsns else PARTS
    wanted = [migration for part in parts for migration in migrations.of(part)]
    done = await mending.bring_up(
        connection, settings.store, wanted, losses.settle(settings, number), finish, check=check
    )
    if number is not None or done.applied or done.mended:
        return done
    return replace(done, next_steps=await losses.awaited(connection, settings))


@asynccontextmanager
async def _connection(settings: Settings, dsn: str, name: str) -> AsyncIterator[postgres.Connection]:
    connection = await postgres.connect(dsn, settings.store, name)
    try:
        with postgres.translated(settings.store, dsn):
            yield connection
    finally:
        await connection.close()


def status(store: options.Store = None, home: options.Home = None, json: options.Json = False) -> None:
    """Show where everything stands: local services, outbox, relay, index, subscriptions, projections.

    Projections of other databases: `gatelog projection list --dsn`.

    Exit code 0 when the store answers; otherwise that of the error shown.

      gatelog status
      gatelog status --json
    """
    settings = options.settings_of(store, home)
    report: dict[str, Any] = {"store": settings.store, "services": _services(services.home_of(home))}
    problem: GatelogError | None = None
    try:
        report |= asyncio.run(_standing(settings))
    except GatelogError as error:
        problem = error
    _show(report, json=json)
    if problem is not None:
        raise problem


def _services(home: Path) -> list[dict[str, Any]]:
    return [asdict(service) for service in services.local(home).status()] if home.exists() else []


async def _standing(settings: Settings) -> dict[str, Any]:
    """Ask Postgres and Kafka at the same time: what one tells is told, whatever the other does."""
    trouble = asyncio.create_task(asyncio.to_thread(_trouble_of_kafka, settings))
    try:
        store, tables = await _tables(settings)
    finally:
        await ended(trouble)
    told = trouble.result() or await asyncio.to_thread(_trouble_with_others, store)
    return {"store_id": str(store.store_id), **tables, "kafka_trouble": told}


def _trouble_of_kafka(settings: Settings) -> str | None:
    """Say what is wrong with Kafka, if anything."""
    try:
        properties = settings.kafka_properties
        leaderless = kafka.leaderless(kafka.admin(properties), properties, settings.store)
    except GatelogError as error:
        return str(error)
    if not leaderless:
        return None
    return f"no broker leads {kafka.named(leaderless)}: what waits for that goes on when brokers that hold it are up"


def _trouble_with_others(store: Identified) -> str | None:
    """Say whether topics are another store's."""
    try:
        Namesakes(store).refuse_any()
    except GatelogError as error:
        return str(error)
    return None


async def _tables(settings: Settings) -> tuple[Identified, dict[str, Any]]:
    async with _connection(settings, settings.dsn, "gatelog status") as connection:
        produced = await producer_status.status(connection, settings.store)
        store = await identified(settings, connection)
        subscribed = await standings(store, connection)
        projected = await projection_standings(store, connection)
        key = await shards.check_gate(connection, settings)
        held = [] if key is not None else [await index_status.status(connection, settings.store)]
    if key is not None:
        held = [await _shard(settings, number, key) for number in range(len(settings.index_dsns))]
    indexed = IndexStatus.of_shards(held)
    report: dict[str, Any] = {
        "producer": asdict(produced),
        "index": asdict(indexed),
        "index_lag_events": produced.position - indexed.frontier,
        "subscriptions": [_subscription(each) for each in subscribed],
        "projections": [asdict(each) for each in projected],
    }
    if key is not None:
        report["index_shards"] = [
            {"place": dsns.where(dsn), **asdict(each)} for dsn, each in zip(settings.shard_dsns, held, strict=True)
        ]
    return store, report


async def _shard(settings: Settings, number: int, key: UUID) -> IndexStatus:
    async with _connection(settings, settings.shard_dsns[number], "gatelog status") as connection:
        await shards.check_shard(connection, settings, number, key)
        return await index_status.status(connection, settings.store)


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


def _build(each: dict[str, Any]) -> str:
    return f"{each['projection']}, build {each['build']}"


def _projection_line(each: dict[str, Any]) -> str:
    lag = "not begun" if each["moved_at"] is None else "lag unknown: no answer from Kafka"
    if each["lag_positions"] is not None:
        lag = f"{each['lag_positions']:,} positions behind, {each['lag_s']:.1f} s"
    built = ""
    if each["done"] is not None:
        left = "time left unknown" if each["seconds_left"] is None else f"about {each['seconds_left']:,.0f} s left"
        built = f"; {each['done']:.0%} built, {left}"
    return f"{each['state']}, {'running' if each['is_active'] else 'not running'}, {lag}{built}"


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
        awaits = {"waits for": f"`gatelog {produced['awaits']}`: a table was lost"} if produced["awaits"] else {}
        print_table(
            f"Store {report['store']!r}",
            {
                "id": report["store_id"],
                **awaits,
                "outbox": f"{produced['outbox_events']:,} events"
                + (f", the oldest for {oldest:.1f} s" if oldest is not None else ""),
                "relay": f"{_active(produced['relay_is_active'])}, position {produced['position']:,}, "
                f"tick {produced['tick']:,}",
                "index": f"{_active(indexed['indexer_is_active'])}, frontier {indexed['frontier']:,}, "
                f"{report['index_lag_events']:,} events behind the relay",
                "unreadable records": f"{indexed['unreadable']:,}",
                "kafka": report["kafka_trouble"] or "answers",
            },
        )
        for number, each in enumerate(report.get("index_shards", [])):
            print_table(
                f"Shard {number} of the index, at {each['place']}",
                {
                    "index": f"{_active(each['indexer_is_active'])}, frontier {each['frontier']:,}, "
                    f"highest position {each['highest']:,}",
                    "unreadable records": f"{each['unreadable']:,}",
                },
            )
        if report["subscriptions"]:
            rows = {each["name"]: _subscription_line(each) for each in report["subscriptions"]}
            print_table("Subscriptions", rows)
        if projections := [each for each in report["projections"] if each["state"] != "retired"]:
            print_table("Projections", {_build(each): _projection_line(each) for each in projections})


def _active(is_active: bool) -> str:
    return "active" if is_active else "not running"
