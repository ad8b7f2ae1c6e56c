"""Rows from several databases as if they came from one. Pure."""

from collections.abc import Iterable, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final

from gatelog.schemas.envelope import Row

VERSION: Final = 1  # places in a row
POSITION: Final = 2


def by_version(indexed: Iterable[Row], pending: Iterable[Row], limit: int, *, backward: bool) -> list[Row]:
    """Return the first ``limit`` rows of a stream, each version once: as the index has it, if it does.

    Each side is the first ``limit`` of what it holds.
    """
    rows = {row[VERSION]: row for row in pending} | {row[VERSION]: row for row in indexed}
    return [rows[version] for version in sorted(rows, reverse=backward)[:limit]]


def by_position(shards: Iterable[Sequence[Row]], frontier: int, limit: int, *, backward: bool) -> list[Row]:
    """Return the first ``limit`` rows of the log, up to the frontier. Each shard gives its first ``limit`` rows.

    Backward, they are asked for what is up to the frontier: rows above it would stand in the place of others.
    """
    merged = merge(*shards, key=itemgetter(POSITION), reverse=backward)
    return list(islice((row for row in merged if row[POSITION] <= frontier), limit))
