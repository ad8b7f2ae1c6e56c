"""What a verification has found: every difference counted, some of each kind kept as examples."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

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
