"""What differs between Postgres and Kafka, as facts."""

from collections.abc import Sequence
from dataclasses import dataclass

REPUBLISH = "`gatelog republish` publishes them again, from the index and the outbox."
ASIDE = (
    "Indexers have set records aside: look at `gatelog index unreadable`, and dismiss those that somebody else has "
    "written (`gatelog index dismiss`); then they count no more here."
)


@dataclass(frozen=True, slots=True)
class Streak:
    """Some events of a stream, as an example."""

    stream: str
    first: int
    last: int
    events: int

    def __str__(self) -> str:
        return f"{self.stream}@{self.first}" + (f"…{self.last}" if self.last > self.first else "")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found. ``position`` is what Postgres says was published, ``kafka_position`` what Kafka holds."""

    position: int
    pending: int  # events of the tick whose outcome the relay had not recorded
    kafka_position: int
    restored: bool  # tables come from a dump, or were made anew
    tick_lacks: int  # events of the pending tick that are nowhere
    lost: int  # events that Kafka holds and Postgres does not
    lost_examples: Sequence[Streak]
    due: int
    conflicting: int
    conflicting_examples: Sequence[Streak]
    shorter: Sequence[str]  # partitions that end before where they were seen
    missing: int  # positions that were published and are nowhere
    missing_ranges: Sequence[tuple[int, int]]  # the first of them
    unknown_schemas: Sequence[str]
    clashes: Sequence[str]  # records that give a position, version or id a second time
    aside: int  # records that indexers have set aside, and nobody has settled
    copies: int
    foreign: int
    foreign_examples: Sequence[str]
    unreadable: int
    unreadable_examples: Sequence[str]

    @property
    def agree(self) -> bool:
        """Whether a relay can start as it is."""
        return not (
            self.restored
            or self.tick_lacks
            or self.lost
            or self.conflicting
            or self.obstacles
            or self.kafka_position not in {self.position, self.position + self.pending}
        )

    @property
    def obstacles(self) -> list[str]:
        """What keeps ``reconcile`` from repairing it, apart from conflicting events."""
        found = []
        if self.shorter:
            found.append("; ".join(self.shorter) + ".")
        if self.missing:
            found.append(
                f"{self.missing:,} positions that were given are missing in Kafka: {self._ranges}. {REPUBLISH}"
                + (f" {ASIDE}" if self.aside else "")
            )
        if self.unknown_schemas:
            found.append(
                f"Kafka's records use schemas that the registry lacks: {'; '.join(self.unknown_schemas)}. Put them "
                "back into the table of schemas, under the same ids, from a newer backup or another copy."
            )
        if self.clashes:
            found.append(
                f"Records give a position, a version or an event id a second time: {'; '.join(self.clashes)}. "
                "Somebody else has written into the topics, or two relays of different databases."
                + (f" {ASIDE}" if self.aside else "")
            )
        return found

    @property
    def _ranges(self) -> str:
        shown = [f"{first:,}" + (f" to {last:,}" if last > first else "") for first, last in self.missing_ranges]
        rest = self.missing - sum(last - first + 1 for first, last in self.missing_ranges)
        return ", ".join(shown) + (", …" if rest else "")
