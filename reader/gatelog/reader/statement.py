"""A query of the log as one SQL statement, put together from the fragments in ``query.sql``.

The statement holds the conditions that the query has and no others, so that the planner sees what it may use. Names
of types, categories and fields are literals in it: a partial index on a field is used only when the planner knows the
type. Everything else is a parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from gatelog.core.sql import queries
from gatelog.reader.log_query import POSITION_MAX, LogQuery
from gatelog.reader.where import Condition

MERGED_MAX: Final = 20  # branches of a statement; with more types or categories, one branch takes them all
INDEXED_CHARACTERS: Final = 200  # of a text, by which payload_text compares it
_PACKAGE: Final = "gatelog.reader"


@dataclass
class Statement:
    """SQL and its arguments."""

    sql: str = ""
    arguments: list[Any] = field(default_factory=list)

    def take(self, value: object) -> str:
        """Return the parameter that stands for a value."""
        self.arguments.append(value)
        return f"${len(self.arguments)}"


def statement_of(store: str, query: LogQuery, after: int, frontier: int, limit: int) -> Statement:
    """Return the statement for the first ``limit`` events behind the position ``after``, up to the frontier."""
    sql = queries(_PACKAGE, "query.sql", store)
    made = Statement()
    lowest, highest = (0, min(after - 1, frontier)) if query.backward else (min(after + 1, POSITION_MAX), frontier)
    names = {
        "@lowest": made.take(lowest),
        "@highest": made.take(highest),
        "@limit": made.take(limit),
        "@order": "DESC" if query.backward else "ASC",
    }
    shared = [sql["positions"], *_bounds(sql, made, query, after)]
    shared += [_compared(sql, made, each) for each in query.where]
    branches = [
        sql["branch"].replace("@conditions", "\n    AND ".join([*shared, *only])) for only in _branches(sql, query)
    ]
    if len(branches) == 1:
        text = branches[0]
    else:
        text = sql["merged"].replace("@branches", "\nUNION ALL\n".join(f"({branch})" for branch in branches))
    for name, value in names.items():
        text = text.replace(name, value)
    made.sql = text
    return made


def _bounds(sql: dict[str, str], made: Statement, query: LogQuery, after: int) -> list[str]:
    """Correlation and time."""
    found = []
    if query.correlation_id is not None:
        found.append(sql["story"].replace("@id", made.take(query.correlation_id)))
    times = []
    if query.since is not None:
        times.append(f"@row.recorded_at >= {made.take(query.since)}")
    if query.until is not None:
        times.append(f"@row.recorded_at < {made.take(query.until)}")
    if times:
        found += [each.replace("@row", "i") for each in times]
        is_narrow = query.correlation_id is not None or any(each.operator == "=" for each in query.where)
        if not is_narrow and after == query.start:  # later pages start inside of the time range
            edge = sql["last_in_time" if query.backward else "first_in_time"]
            found.append(edge.replace("@times", " AND ".join(times).replace("@row", "e")))
    return found


def _branches(sql: dict[str, str], query: LogQuery) -> list[list[str]]:
    """Conditions of each branch: an index gives one type, or one category, in the order of positions."""
    types = _one_of("i.type", query.types)
    categories = _one_of("i.category", query.categories)
    if types is None and categories is None:
        return [[]]
    if types is None:
        assert categories is not None
        return [[each] for each in categories]
    both = [] if query.categories is None else [f"i.category = ANY ({_array(query.categories)})"]
    return [[each, *both] for each in types]


def _one_of(column: str, names: Sequence[str] | None) -> list[str] | None:
    if names is None:
        return None
    if len(names) > MERGED_MAX:
        return [f"{column} = ANY ({_array(names)})"]
    return [f"{column} = {literal(name)}" for name in names]


def _compared(sql: dict[str, str], made: Statement, each: Condition) -> str:
    if each.kind == "json":
        nested: Any = orjson.Fragment(str(each.value))
        for name in reversed(each.path):
            nested = {name: nested}
        return f"i.data_json @> {made.take(orjson.dumps(nested).decode())}::jsonb"
    value, path = made.take(each.value), _array(each.path)
    if each.kind == "number":
        return f"{sql['number'].replace('@path', path)} {each.operator} {value}::numeric"
    start, beginning = sql["text"].replace("@path", path), f"left({value}::text, {INDEXED_CHARACTERS})"
    if len(str(each.value)) < INDEXED_CHARACTERS:
        return f"{start} {each.operator} {beginning}"
    whole = sql["whole_text"].replace("@path", path)
    loose = {"<": "<=", ">": ">="}.get(each.operator, each.operator)
    return f"{start} {loose} {beginning} AND {whole} {each.operator} {value}::text"


def _array(names: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(literal(name) for name in names)}]::text[]"


def literal(text: str) -> str:
    """Return a text as an SQL literal; ``@`` and ``$`` go as escapes, lest they be taken for names of ours."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("@", "\\x40").replace("$", "\\x24")
    return f"E'{escaped}'" if "\\" in escaped else f"'{escaped}'"
