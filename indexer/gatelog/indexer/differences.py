"""What a verification has found: every difference counted, some of each kind kept as examples."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import asyncpg

EXAMPLES_MAX: Final = 20  # of each kind


@dataclass(slots=True)
class Differences:
    """Differences by kind."""

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, where: str, number: int = 1) -> None:
        """Count a difference, and keep where it is if there are few yet."""
        self.counts[kind] += number
        if len(self.examples[kind]) < EXAMPLES_MAX:
            self.examples[kind].append(where)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared, and what differs."""

    first: int  # positions
    last: int
    frontier: int
    records: int  # read from Kafka
    indexed: int  # rows of the index in this range
    behind: int  # published, and not indexed yet
    streams: int  # whose heads were compared; 0 for a range
    waiting: int  # events of the outbox that were compared; 0 for a range
    unreadable: int  # records that were kept aside and are open
    foreign: int
    copies: int
    seconds: float
    differences: dict[str, int]
    examples: dict[str, list[str]]

    @property
    def agree(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def disorder(row: asyncpg.Record, head: int | None) -> tuple[str, str] | None:
    """Return kind and text of what is wrong with an event of the index, whose stream ends at ``head`` by the gate."""
    if head is None:
        return "gate differs", "the gate does not know the stream"
    if head < row["version"]:
        return "gate differs", f"the gate says that the stream ends at version {head:,}"
    if row["before"] is None and row["version"] > 1:
        return "gap in a stream", f"the index lacks version {row['version'] - 1:,}"
    if row["before"] is not None and row["before"] >= row["position"]:
        return "out of order in a stream", f"the version before it is at position {row['before']:,}"
    return None


def outbox_problem(row: asyncpg.Record, indexed: asyncpg.Record | None, *, follows: bool) -> str | None:
    """Return what is wrong with an event of the outbox, given what the index has under its id."""
    if indexed is None:
        return None if follows else f"nobody holds version {row['version'] - 1:,}"
    if (row["stream"], row["version"]) != (indexed["stream"], indexed["version"]):
        return (
            f"the index has the same id as {indexed['stream']}@{indexed['version']} at position "
            f"{indexed['position']:,}"
        )
    is_same = all(row[name] == indexed[name] for name in ("type", "schema_id", "metadata", "digest"))
    return None if is_same else f"the index has another content at position {indexed['position']:,}"
