"""Which offsets of a partition are done, in whatever order they were: a pure state machine.

Only what is contiguous may be committed: after a crash, reading goes on at the first offset that was not done.
"""

from collections import deque
from collections.abc import Sequence


class Window:
    """The offsets of one partition between the last commit and the last record read."""

    __slots__ = ("_done", "_open", "highest_done", "read_upto")

    def __init__(self, start: int) -> None:
        """Begin at ``start``, the offset of the first record that will be read."""
        self.read_upto = start  # the offset after the last record read
        self.highest_done = start - 1  # of the offsets that were finished
        self._open: deque[int] = deque()  # in order; those behind the first may be done already
        self._done: set[int] = set()  # done, but behind one that is not

    def take(self, offsets: Sequence[int], next_offset: int) -> None:
        """Open ``offsets``, in order; all others before ``next_offset`` need nothing."""
        self._open.extend(offsets)
        self.read_upto = next_offset

    def finish(self, offset: int) -> None:
        """Close an open offset."""
        waiting, done = self._open, self._done
        if offset > self.highest_done:
            self.highest_done = offset
        if offset != waiting[0]:
            done.add(offset)
            return
        waiting.popleft()
        while waiting and waiting[0] in done:
            done.remove(waiting.popleft())

    @property
    def committable(self) -> int:
        """The first offset that is not done; everything before it is."""
        return self._open[0] if self._open else self.read_upto

    @property
    def uncommittable(self) -> int:
        """How many records were read from ``committable`` on, done or not."""
        return len(self._open)

    @property
    def unfinished(self) -> int:
        """How many offsets are open."""
        return len(self._open) - len(self._done)
