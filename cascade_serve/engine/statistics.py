"""Counts and times of each member's runs, and from them how long the next run should take."""

import time

from cascade_serve.engine.protocol import MemberStatistics

_WEIGHT_OF_NEWEST = 0.2


class RunStatistics:
    """What the members' runs took, and which of them can't run. Not thread-safe: the engine's lock guards it.

    Args:
        members: their names, by index.

    Attributes:
        expected_s: of each member, moving average of the seconds of a run, whatever its batch size; 0 before the first.
    """

    def __init__(self, members: list[str]) -> None:
        self._members = members
        self._rows = [0] * len(members)
        self._failures = [0] * len(members)
        self._queue_s = [0.0] * len(members)
        self._last_run_s = [0.0] * len(members)
        self._runs: list[dict[int, tuple[int, float]]] = [{} for _ in members]
        self._faults = [""] * len(members)
        self.expected_s = [0.0] * len(members)

    @property
    def fault(self) -> str:
        """Name the first member that can't run, and why."""
        faults = zip(self._members, self._faults, strict=True)
        return next((f"member {name!r} fails on every image: {fault}" for name, fault in faults if fault), "")

    def expect(self, member: int, compute_s: float) -> None:
        """Let a run's seconds move the expectation of the next."""
        expected_s = self.expected_s[member]
        self.expected_s[member] = expected_s + (compute_s - expected_s) * (_WEIGHT_OF_NEWEST if expected_s else 1.0)

    def ran(self, member: int, rows: int, queue_s: float, compute_s: float, fault: str = "") -> None:
        """Count a run.

        Args:
            member: its index.
            rows, compute_s: of the batch.
            queue_s: summed over its rows.
            fault: why the member fails on every image; empty where it doesn't.
        """
        self._faults[member] = fault
        runs, seconds = self._runs[member].get(rows, (0, 0.0))
        self._runs[member][rows] = (runs + 1, seconds + compute_s)
        self._rows[member] += rows
        self._queue_s[member] += queue_s
        self._last_run_s[member] = time.time()
        self.expect(member, compute_s)

    def failed(self, member: int) -> None:
        """Count a run that raised."""
        self._failures[member] += 1

    def by_member(self) -> dict[str, MemberStatistics]:
        """Give all counts so far, by member name."""
        return {name: self._of(index) for index, name in enumerate(self._members)}

    def _of(self, member: int) -> MemberStatistics:
        runs = self._runs[member]
        return MemberStatistics(
            rows=self._rows[member],
            batches=sum(count for count, _ in runs.values()),
            failures=self._failures[member],
            queue_s=self._queue_s[member],
            compute_s=sum(seconds for _, seconds in runs.values()),
            batch_sizes=dict(runs),
            last_run_s=self._last_run_s[member],
        )
