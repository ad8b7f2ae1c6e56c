"""How a command ends at SIGINT or SIGTERM: at once if it can, and after some seconds whatever it waits for.

What gatelog stores survives a SIGKILL: nothing but a nicer end hangs on the time that a command is given.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import Final

from gatelog.core import services

GRACE_S: Final = 5.0
_TICK_S: Final = 0.1
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED: Final = 130  # the exit code


def listen() -> None:
    """Take both signals for Ctrl-C, even where a shell that started us in the background told us to ignore that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio makes a cancellation of this one
    signal.signal(signal.SIGTERM, _interrupt)
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(told,), name="ending", daemon=True).start()


def leave_to_services() -> None:
    """Let what comes decide on signals itself: it finishes what is in hand, with deadlines of its own."""
    signal.set_wakeup_fd(-1)


def soon() -> None:
    """End after some seconds in which nothing of the user's own ran: the rest waits for Kafka, or for Postgres."""
    threading.Thread(target=_count_down, name="ending", daemon=True).start()


def _count_down() -> None:
    left_s = GRACE_S
    while left_s > 0:
        time.sleep(_TICK_S)
        if services.at_work.count == 0:
            left_s -= _TICK_S
    _end_hard()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)


def _watch(told: int) -> None:
    """A signal is told here even while a library blocks the main thread, where Python handles signals."""
    while os.read(told, 1)[0] not in _SIGNALS:
        pass
    threading.Event().wait(GRACE_S)
    _end_hard()


def _end_hard() -> None:
    os.write(2, f"Ended hard: something did not let go within {GRACE_S:g} s of the signal.\n".encode())
    os._exit(INTERRUPTED)
