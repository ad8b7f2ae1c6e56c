"""Total order: partitions merged by position. A pure state machine; what reads the partitions is in ``ordered``.

Each partition comes in order of positions. Something may be released when nothing smaller can still come, and there
are two ways to know that:

- *Low watermarks.* Each partition has given everything up to some position, its watermark: that of its last record,
  or a higher one when somebody has found out that it holds nothing else (``quiet``). Everything up to the smallest
  watermark is released at once.
- *Gapless positions.* When all of the store is read, positions are 1, 2, 3 … without a hole: the next one is released
  as soon as it is here, and idle partitions are waited for by nobody.
"""

from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, TypeAlias

from gatelog.core.errors import LogMismatchError

Place = tuple[str, int]  # topic, partition
Item: TypeAlias = tuple[Any, ...]  # a position, and whatever belongs to it
_POSITION: Final[Callable[[Item], int]] = itemgetter(0)


class Merge:
    """Takes items of partitions, each with its position, and gives them in order of positions over all of them."""

    def __init__(self, after: int, *, gapless: bool) -> None:
        """Begin after a position. ``gapless``: every one after it will come, from one partition or another."""
        self._upto = after
        self._gapless = gapless
        self._held: dict[Place, deque[Item]] = {}
        self._watermarks: dict[Place, int] = {}
        self._handled: dict[Place, int] = {}
        self._late: list[Item] = []
        self.late = 0  # items that came when higher positions were out already; they go out at once
        self.missing = 0  # positions that were passed over because no partition can hold them; only when gapless

    @property
    def upto(self) -> int:
        """The position up to which everything was released."""
        return self._upto

    @property
    def held(self) -> int:
        """Items that wait for others."""
        return sum(map(len, self._held.values()))

    def held_of(self, place: Place) -> int:
        """Items of a partition that wait for others."""
        return len(self._held[place])

    def watch(self, place: Place, handled: int = 0) -> None:
        """Wait for a partition too. What comes of it up to the position ``handled`` came before."""
        self._held[place] = deque()
        self._watermarks[place] = max(handled, self._upto)
        self._handled[place] = handled

    def unwatch(self, place: Place) -> None:
        """Wait for a partition no longer that never held anything."""
        del self._held[place], self._watermarks[place], self._handled[place]

    def add(self, place: Place, item: Item) -> None:
        """Take the next item of a partition.

        Raises:
            LogMismatchError: the partition is not in order of positions.
        """
        position: int = item[0]
        if position <= self._watermarks[place]:
            if position <= self._handled[place]:
                return
            if position <= self._upto:
                self._late.append(item)
                self.late += 1
                return
            raise LogMismatchError(
                f"Topic {place[0]!r} partition {place[1]}: position {position} comes after "
                f"{self._watermarks[place]}. Somebody else wrote into the topic."
            )
        self._watermarks[place] = position
        self._held[place].append(item)

    @property
    def highest(self) -> int:
        """The highest position that has come, or was known to be quiet."""
        return max(self._watermarks.values(), default=self._upto)

    def quiet(self, place: Place, upto: int) -> None:
        """Know that nothing up to a position will come from a partition any more."""
        self._watermarks[place] = max(self._watermarks[place], upto)

    def awaited(self) -> list[Place]:
        """Return the partitions whose silence holds something up: now, or when others have spoken."""
        if not any(self._held.values()):
            return []
        highest = self.highest
        return [place for place, watermark in self._watermarks.items() if watermark < highest]

    def release(self) -> list[Item]:
        """Return what is due, in order."""
        found, self._late = self._late, []
        found.extend(self._below_watermark())
        if self._gapless:
            found.extend(self._in_a_row())
        return found

    def _below_watermark(self) -> list[Item]:
        """Take it from all partitions and sort: they are runs, which a sort finds."""
        low = min(self._watermarks.values(), default=0)
        if low <= self._upto:
            return []
        due: list[Item] = []
        for place, held in self._held.items():
            while held and held[0][0] <= low:
                self._handled[place] = held[0][0]
                due.append(held.popleft())
        due.sort(key=_POSITION)
        if self._gapless:
            self.missing += low - self._upto - len(due)
        self._upto = low
        return due

    def _in_a_row(self) -> list[Item]:
        heads = {held[0][0]: place for place, held in self._held.items() if held}
        found = []
        while (place := heads.pop(self._upto + 1, None)) is not None:
            held = self._held[place]
            found.append(held.popleft())
            self._upto = self._handled[place] = self._upto + 1
            if held:
                heads[held[0][0]] = place
        return found
