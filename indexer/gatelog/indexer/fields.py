"""Indexes on fields of payloads, as models declare them: made beside the running store, one after the other."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gatelog.core import postgres
from gatelog.core.sql import queries
from gatelog.schemas.indexed import IndexedField


@dataclass
class FieldIndexes:
    """What there is after ``index_fields``: fields that got an index now, that had one, and what nobody declares."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    undeclared: list[str] = field(default_factory=list)  # dropped, if that was wanted


async def index_fields(
    connection: postgres.Connection,
    store: str,
    wanted: Iterable[IndexedField],
    *,
    drop: bool,
    progress: Callable[[str], None],
) -> FieldIndexes:
    """Make the indexes that are missing; appends, indexing and reads go on. ``progress`` hears what is being made.

    ``drop`` removes indexes that are not ``wanted``. An attempt that is broken off is made anew by the next one.

    Raises:
        PostgresUnavailableError: no answer.
    """
    sql = queries("gatelog.indexer", "fields.sql", store)
    present = {row["name"]: row for row in await connection.fetch(sql["present"])}
    found = FieldIndexes()
    for each in wanted:
        made = await connection.fetchrow(sql["definition"], each.event_type, list(each.path), each.kind, str(each))
        assert made is not None
        there = present.pop(made["name"], None)
        if there is not None and there["is_valid"]:
            for step in ("describe", "observe"):  # a rebuild of the index leaves these behind
                await connection.execute(made[step])
            found.kept.append(str(each))
            continue
        progress(str(each))
        if there is not None:
            await connection.execute(sql["remove"].replace("@name", made["name"]))
        for step in ("make", "describe", "observe"):
            await connection.execute(made[step])
        found.made.append(str(each))
    for row in present.values():
        found.undeclared.append(row["field"] or row["name"])
        if drop:
            for step in ("remove", "forget"):
                await connection.execute(sql[step].replace("@name", row["name"]))
    if found.made:
        await connection.execute(sql["analyze"])
    return found
