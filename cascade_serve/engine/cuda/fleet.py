"""Several engines, one a device, that look like one: a request goes whole to the device with the fewest rows."""

import time
from collections.abc import Sequence

from cascade_serve.core.plan import Fingerprint, Plan
from cascade_serve.core.request import Request
from cascade_serve.engine.protocol import Caller, Engine, EngineConfig, MemberStatistics, Ticket


class EngineFleet:
    """Serves one plan on several devices; see :class:`~cascade_serve.engine.protocol.Engine`.

    Args:
        engines: one a device, at least one, of the same plan and bounds.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self._last = 0

    @property
    def plan(self) -> Plan:
        """The plan it serves."""
        return self._engines[0].plan

    @property
    def config(self) -> EngineConfig:
        """The bounds of each device."""
        return self._engines[0].config

    @property
    def fingerprint(self) -> Fingerprint:
        """What computes its answers."""
        return self._engines[0].fingerprint

    @property
    def fault(self) -> str:
        """What is wrong with the first device, where every device is at fault; else the others answer."""
        faults = [engine.fault for engine in self._engines]
        return faults[0] if all(faults) else ""

    @property
    def rows_in_flight(self) -> int:
        """Rows that hold a slot, on any device."""
        return sum(engine.rows_in_flight for engine in self._engines)

    @property
    def rows_running(self) -> int:
        """Rows in a running batch, on any device."""
        return sum(engine.rows_running for engine in self._engines)

    def admit(self, request: Request, caller: Caller | None = None) -> Ticket:
        """Hand a request to the least loaded device; of equals, to the next after the one that came last.

        One at fault gets none, though it is idle, as long as another is well. The bounds of all are the same: where the
        least loaded has no room, none has.
        """
        count = len(self._engines)
        turns = [(self._last + 1 + turn) % count for turn in range(count)]
        # NOTE: two threads may choose by the same numbers; the next request evens that out.
        self._last = min(turns, key=self._burden)
        return self._engines[self._last].admit(request, caller)

    def _burden(self, index: int) -> tuple[bool, int]:
        engine = self._engines[index]
        return engine.fault != "", engine.rows_in_flight

    def warm_up(self) -> None:
        """Warm all of them, one after the other: captures may not overlap."""
        for engine in self._engines:
            engine.warm_up()

    def statistics(self) -> dict[str, MemberStatistics]:
        """Member name → its statistics, over all devices."""
        parts = [engine.statistics() for engine in self._engines]
        return {name: _sum([part[name] for part in parts]) for name in parts[0]}

    def drain(self, timeout_s: float) -> bool:
        """Admit nothing more anywhere and wait for the rows in flight; tell whether all were answered in time."""
        for engine in self._engines:
            # All stop admitting before any is waited for.
            engine.drain(0.0)
        end_s = time.monotonic() + timeout_s
        return all(engine.drain(max(0.0, end_s - time.monotonic())) for engine in self._engines)

    def close(self) -> None:
        """Close all of them."""
        for engine in self._engines:
            engine.close()


def _sum(parts: Sequence[MemberStatistics]) -> MemberStatistics:
    sizes: dict[int, tuple[int, float]] = {}
    for part in parts:
        for rows, (runs, seconds) in part.batch_sizes.items():
            so_far_runs, so_far_s = sizes.get(rows, (0, 0.0))
            sizes[rows] = (so_far_runs + runs, so_far_s + seconds)
    return MemberStatistics(
        rows=sum(part.rows for part in parts),
        batches=sum(part.batches for part in parts),
        failures=sum(part.failures for part in parts),
        queue_s=sum(part.queue_s for part in parts),
        compute_s=sum(part.compute_s for part in parts),
        batch_sizes=sizes,
        last_run_s=max(part.last_run_s for part in parts),
    )
