"""What a load run measured: each caller's tally, and the report over all of them."""
# Shapes: B rows of one request, S stages, N requests.

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascade_serve.core.arrays import IntArray

_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the report needs of one reply.

    Attributes:
        exit_stage_B: int [B], 0-based.
        flops_B: int [B].
    """

    exit_stage_B: IntArray | NDArray[np.int32]
    flops_B: IntArray


@dataclass(slots=True)
class Tally:
    """One caller's counts. Written by its thread alone, so it needs no lock.

    Attributes:
        latencies_s: of each answered request, from the time it was due.
        max_send_delay_s: how late a request was sent at worst; 0 in a closed loop.
        exits: stage → rows.
        images, flops, max_flops: rows answered, their FLOPs in all, the largest of one row.
        errors: status → failed requests.
        first_error: message of the first failure.
        last_done_s: when the last request ended, on the run's clock.
        done: requests ended, warm-up included; other threads may read it for progress.
    """

    latencies_s: "array[float]" = field(default_factory=lambda: array("d"))
    max_send_delay_s: float = 0.0
    exits: Counter[int] = field(default_factory=Counter)
    images: int = 0
    flops: int = 0
    max_flops: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None
    last_done_s: float = 0.0
    done: int = 0

    def add_answer(self, answer: Answer, latency_s: float, send_delay_s: float) -> None:
        """Count an answered request."""
        self.latencies_s.append(latency_s)
        self.max_send_delay_s = max(self.max_send_delay_s, send_delay_s)
        # For the few images of a request, plain numbers are several times quicker than numpy's fixed cost a call.
        flops: list[int] = answer.flops_B.tolist()
        self.images += len(flops)
        self.flops += sum(flops)
        self.max_flops = max([self.max_flops, *flops])
        for stage in answer.exit_stage_B.tolist():
            self.exits[stage] += 1

    def add_error(self, status: str, message: str) -> None:
        """Count a failed request."""
        self.errors[status] += 1
        self.first_error = self.first_error or message


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Latency of answered requests, in milliseconds; NaN where there was none. Percentiles are observed values."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What a run measured, warm-up left out.

    Attributes:
        loop: ``closed`` (each caller waits for its answer) or ``open`` (Poisson arrivals at a rate).
        concurrency: callers.
        requests, failed: answered and failed requests.
        errors: status → failed requests.
        first_error: message of one failure, or None.
        images: rows answered.
        duration_s: from the end of the warm-up to the last answer.
        requests_per_s, images_per_s: answered, over that time.
        latency_ms: from when the request was due (open loop) or sent (closed loop) to its answer.
        unsent: requests that were due before the end and never sent, as no caller was free (open loop); where there
            are many, the latency of those that were sent tells too little.
        max_send_delay_ms: how late a request was sent at worst (open loop); it is part of the latency.
        exits: rows that left at each stage, from the first to the deepest that was reached.
        mean_flops, max_flops: per image; NaN and 0 where nothing was answered.
    """

    loop: Literal["closed", "open"]
    concurrency: int
    requests: int
    failed: int
    errors: dict[str, int]
    first_error: str | None
    images: int
    duration_s: float
    requests_per_s: float
    images_per_s: float
    latency_ms: Latency
    unsent: int
    max_send_delay_ms: float
    exits: tuple[int, ...]
    mean_flops: float
    max_flops: int


def make_report(
    tallies: Sequence[Tally], *, loop: Literal["closed", "open"], start_s: float, unsent: int
) -> LoadReport:
    """Sum the callers' tallies up.

    Args:
        tallies: one a caller.
        loop: how requests were sent.
        start_s: when measuring began, on the run's clock.
        unsent: requests that were due and never sent.
    """
    latencies_s_N = np.concatenate([np.frombuffer(tally.latencies_s, dtype=np.float64) for tally in tallies])
    errors = sum((tally.errors for tally in tallies), Counter[str]())
    exits = sum((tally.exits for tally in tallies), Counter[int]())
    images = sum(tally.images for tally in tallies)
    duration_s = max(0.0, max(tally.last_done_s for tally in tallies) - start_s)
    return LoadReport(
        loop=loop,
        concurrency=len(tallies),
        requests=len(latencies_s_N),
        failed=errors.total(),
        errors=dict(sorted(errors.items())),
        first_error=next((tally.first_error for tally in tallies if tally.first_error), None),
        images=images,
        duration_s=duration_s,
        requests_per_s=_per(len(latencies_s_N), duration_s, empty=0.0),
        images_per_s=_per(images, duration_s, empty=0.0),
        latency_ms=_latency(latencies_s_N),
        unsent=unsent,
        max_send_delay_ms=1000 * max(tally.max_send_delay_s for tally in tallies),
        exits=tuple(exits[stage] for stage in range(max(exits, default=-1) + 1)),
        mean_flops=_per(sum(tally.flops for tally in tallies), images, empty=float("nan")),
        max_flops=max(tally.max_flops for tally in tallies),
    )


def _per(amount: float, base: float, *, empty: float) -> float:
    return amount / base if base > 0 else empty


def _latency(latencies_s_N: NDArray[np.float64]) -> Latency:
    if not latencies_s_N.size:
        nan = float("nan")
        return Latency(mean=nan, p50=nan, p90=nan, p99=nan, max=nan)
    p50, p90, p99 = 1000 * np.percentile(latencies_s_N, _PERCENTILES, method="inverted_cdf")
    return Latency(
        mean=1000 * float(latencies_s_N.mean()),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        max=1000 * float(latencies_s_N.max()),
    )
