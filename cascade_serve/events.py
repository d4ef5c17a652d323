"""How a main thread sleeps: on a queue that other threads and signal handlers put into."""

import math
import time
from queue import Empty, SimpleQueue
from typing import TypeVar

_Event = TypeVar("_Event")

_LOOK_S = 0.5


def next_event(events: "SimpleQueue[_Event]", timeout_s: float = math.inf) -> _Event:
    """Wait for what comes next, as the main thread of a process whose signal handlers put into the queue.

    Python runs signal handlers in the main thread alone, and a signal wakes that thread only where the kernel gives it
    to just that one; a process that was paused and continued a moment ago may get it in another. So this looks up twice
    a second, and a handler that is due runs then.

    Args:
        events: what is waited for.
        timeout_s: how long.

    Raises:
        Empty: nothing came in time.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        left_s = until_s - time.monotonic()
        try:
            return events.get(timeout=max(0.0, min(left_s, _LOOK_S)))
        except Empty:
            if left_s <= _LOOK_S:
                raise
