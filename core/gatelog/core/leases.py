"""Leases: who has one counts on, and who watches measures by its own clock how long a count stands still.

The clock of Postgres may be set, forth or back, and would give a lease away, or keep it for as long.
"""

import time


class Standstill:
    """How long the count of a lease has stood still."""

    def __init__(self, silence_max_s: float) -> None:
        """``silence_max_s``: after which whoever counts is taken for frozen or dead."""
        self._silence_max_s = silence_max_s
        self._seen: object = None
        self._since = 0.0

    def is_too_long(self, count: object) -> bool:
        """Look at the count, and say whether it was the same for too long."""
        if count != self._seen:
            self._seen, self._since = count, time.monotonic()
        return time.monotonic() - self._since > self._silence_max_s
