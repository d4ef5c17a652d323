"""Seconds of each phase of a selection: what the proxy's speed-up is measured in."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseSeconds:
    """How long something took.

    Attributes:
        wall_s: on the wall.
        process_s: CPU time of this process, all threads.
    """

    wall_s: float = 0.0
    process_s: float = 0.0

    def __add__(self, other: "PhaseSeconds") -> "PhaseSeconds":
        return PhaseSeconds(wall_s=self.wall_s + other.wall_s, process_s=self.process_s + other.process_s)

    def at_least(self, other: "PhaseSeconds") -> "PhaseSeconds":
        """Give the longer of two accounts of the same phase: a resumed training takes less than it took in all."""
        return PhaseSeconds(wall_s=max(self.wall_s, other.wall_s), process_s=max(self.process_s, other.process_s))


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionSeconds:
    """How long a selection took, by phase; over all rounds so far in active learning.

    Attributes:
        training: of the proxy.
        scoring: the pool by the proxy.
        ranking: the scores, or the search for centres.
    """

    training: PhaseSeconds = field(default_factory=PhaseSeconds)
    scoring: PhaseSeconds = field(default_factory=PhaseSeconds)
    ranking: PhaseSeconds = field(default_factory=PhaseSeconds)

    @property
    def total(self) -> PhaseSeconds:
        """All phases together: the data-selection time of Coleman et al."""
        return self.training + self.scoring + self.ranking

    def __add__(self, other: "SelectionSeconds") -> "SelectionSeconds":
        return SelectionSeconds(
            training=self.training + other.training,
            scoring=self.scoring + other.scoring,
            ranking=self.ranking + other.ranking,
        )


class Stopwatch:
    """Measures phase after phase.

    Args:
        wall, process: clocks, in seconds.
    """

    def __init__(
        self, wall: Callable[[], float] = time.perf_counter, process: Callable[[], float] = time.process_time
    ) -> None:
        self._wall, self._process = wall, process
        self._last = (wall(), process())

    def lap(self) -> PhaseSeconds:
        """Give the time since the start or the last lap."""
        now = (self._wall(), self._process())
        wall_s, process_s = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return PhaseSeconds(wall_s=wall_s, process_s=process_s)
