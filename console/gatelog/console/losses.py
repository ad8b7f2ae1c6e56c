"""What follows when tables of a store were lost and ``gatelog init`` has made them anew: in SQL, and for people."""

from typing import Final

from gatelog.core import postgres
from gatelog.core.mending import Settle
from gatelog.core.settings import Settings
from gatelog.core.sql import queries

GATE: Final = frozenset({
    "streams", "outbox", "outbox_0", "outbox_1", "outbox_id", "outbox_segment", "outbox_emptied", "outbox_floor",
    "outbox_state", "relay_leader", "relay_log", "restore_witness", "stored_ids",
})  # fmt: skip
PROJECTIONS: Final = frozenset({"projection_builds", "projection_offsets"})

_SHUT: Final = "nothing is appended, and no stream read"
_STEPS: Final = {
    "unreadable_records": "`gatelog index rebuild` finds the records again that could not be read.",
    "schema_levels": (
        "All compatibility levels are BACKWARD now: `gatelog schema copy --from FILE`, or `gatelog schema level "
        "--set`."
    ),
    "subscriptions": (
        "It is forgotten where subscriptions began: in partitions without a committed offset they begin where their "
        "programs say, when they run next."
    ),
}


def settle(settings: Settings, shard: int | None = None) -> Settle:
    """Return what makes a database consistent after a loss: the gate's, or that of a shard of the index."""

    async def settled(connection: postgres.Connection, made: set[str]) -> list[str]:
        steps = []
        if "events" in made:
            await _run(connection, settings, "gatelog.indexer", "events")
            if shard is None:
                await _run(connection, settings, "gatelog.producer", "index")
            steps.append(_of_index(shard))
        if shard is None:
            steps += await _settle_gate(connection, settings, made)
        return steps + [text for name, text in _STEPS.items() if name in made]

    return settled


async def _settle_gate(connection: postgres.Connection, settings: Settings, made: set[str]) -> list[str]:
    steps = []
    if made & GATE:
        await _run(connection, settings, "gatelog.producer", "gate")
        steps.append(
            "`gatelog reconcile --apply`, with producers and relays stopped: gate and outbox follow Kafka. Until "
            f"then no relay starts, {_SHUT}. Events that were appended and not published are gone, if the outbox is."
        )
    if made & PROJECTIONS:
        await _run(connection, settings, "gatelog.reader", "projections")
        steps.append(
            "Checkpoints of projections are gone. Drop their builds (`gatelog projection drop`) and the tables of "
            "their read models, then run them: they begin anew."
        )
    if "schemas" in made and settings.registry_url is None:
        sql = queries("gatelog.producer", "anew.sql", settings.store)
        if await connection.fetchval(sql["schemas"]):
            await _run(connection, settings, "gatelog.schemas", "schemas")
            steps.append(
                "`gatelog schema copy --from FILE`, of a copy that was made before: nothing can be read or "
                "registered until then."
            )
    return steps


def _of_index(shard: int | None) -> str:
    if shard is None:
        return f"`gatelog index rebuild`: the index is empty. Until it is done, {_SHUT}."
    return (
        f"Shard {shard} of the index is empty: indexers fill it, or `gatelog index rebuild --shard {shard}`. Until "
        "then its streams cannot be read."
    )


async def awaited(connection: postgres.Connection, settings: Settings) -> list[str]:
    """Return what an earlier ``gatelog init`` has said, and nobody has done yet."""
    command = await connection.fetchval(queries("gatelog.producer", "anew.sql", settings.store)["awaited"])
    return [] if command is None else [f"`gatelog {command}`: a table was lost and made anew. Until then, {_SHUT}."]


async def index_is_back(settings: Settings) -> None:
    """Let appends and reads go on after a rebuild of an index that was lost."""
    connection = await postgres.connect(settings.dsn, settings.store, "gatelog index rebuild")
    try:
        with postgres.translated(settings.store, settings.dsn):
            await _run(connection, settings, "gatelog.producer", "index_is_back")
    finally:
        await connection.close()


async def _run(connection: postgres.Connection, settings: Settings, package: str, name: str) -> None:
    await connection.execute(queries(package, "anew.sql", settings.store)[name])
