"""When the next request is due: at once (closed loop), or by a Poisson process (open loop)."""

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Clock(Protocol):
    """Time as a load run sees it, in seconds."""

    def now(self) -> float:
        """Tell the time."""
        ...

    def wait_until(self, time_s: float, stop: threading.Event) -> None:
        """Return at ``time_s``, or sooner when ``stop`` is set."""
        ...


class MonotonicClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Tell the seconds of ``time.perf_counter``."""
        return time.perf_counter()

    def wait_until(self, time_s: float, stop: threading.Event) -> None:
        """Return at ``time_s``, or sooner when ``stop`` is set."""
        delay_s = time_s - time.perf_counter()
        if delay_s > 0:
            stop.wait(delay_s)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that is to be sent.

    Attributes:
        index: 0, 1, 2, ... in the order of the run.
        due_s: when to send it, on the run's clock; None is at once.
        is_measured: it is due after the warm-up.
    """

    index: int
    due_s: float | None
    is_measured: bool


class Arrivals:
    """Hands requests out to callers, each request to one of them. Safe to use from many threads.

    Args:
        start_s: of the run, on its clock.
        measure_from_s: end of the warm-up.
        end_s: nothing is due, and nothing sent, from then on; None has no end.
        count: measured requests in all; None has no bound.
        rate: mean requests a second, with exponential gaps (Poisson); None is due at once (closed loop).
        seed: of the gaps.
    """

    def __init__(
        self,
        *,
        start_s: float,
        measure_from_s: float,
        end_s: float | None = None,
        count: int | None = None,
        rate: float | None = None,
        seed: int = 0,
    ) -> None:
        self._due_s = start_s
        self._measure_from_s = measure_from_s
        self._end_s = end_s
        self._left = count
        self._mean_gap_s = None if rate is None else 1 / rate
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._next = 0
        self._unsent = 0

    @property
    def unsent(self) -> int:
        """Measured requests that were due before the end, but which no caller was free to take."""
        return self._unsent

    def take(self, now_s: float) -> Arrival | None:
        """Give the next request, or None when the run is over.

        Args:
            now_s: the time of asking, which is when a closed loop's request is due.
        """
        with self._lock:
            due_s = self._draw_due_s()
            effective_s = now_s if due_s is None else due_s
            is_measured = effective_s >= self._measure_from_s
            if self._is_over(effective_s, is_measured):
                return None
            if self._end_s is not None and now_s >= self._end_s:
                self._skip_the_rest(is_measured)
                return None
            if is_measured and self._left is not None:
                self._left -= 1
            self._next += 1
            return Arrival(self._next - 1, due_s, is_measured)

    def _draw_due_s(self) -> float | None:
        if self._mean_gap_s is None:
            return None
        self._due_s += self._random.exponential(self._mean_gap_s)
        return self._due_s

    def _is_over(self, due_s: float, is_measured: bool) -> bool:
        if self._end_s is not None and due_s >= self._end_s:
            return True
        return is_measured and self._left == 0

    def _skip_the_rest(self, is_measured: bool) -> None:
        # Sending the backlog would take as long as it is long: an overloaded server must not hold the run.
        while not self._is_over(self._due_s, is_measured):
            self._unsent += is_measured
            if is_measured and self._left is not None:
                self._left -= 1
            self._draw_due_s()
            is_measured = self._due_s >= self._measure_from_s
