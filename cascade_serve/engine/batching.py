"""How many rows of a member run together: what its profile says that pays, up to the operator's bound."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

TOLERANCE = 0.05
"""A batch size is as good as the best where it costs at most this share more per image: less is noise."""
AMPLE_TOLERANCE = 1 / 3
"""A batch is ample where it costs at most this share more per image than the best: a larger one saves a quarter at
most, which is not worth its rows' waiting."""
BATCH_OVERHEAD_S = 150e-6
"""What the engine spends on a batch outside the member's run, whatever its size: forming, gating, settling.

Requests of 64 rows over lookup tables took 165 to 172 microseconds of CPU time a batch of one and 306 a batch of 16, so
about 9 a row and the rest a batch (one run, 2.5 GHz Xeon, Python 3.11, other work beside it). It need not be exact.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """Bounds of one member's batches.

    Attributes:
        max_rows: rows of one batch; more would delay rows and save nothing.
        full_rows: where so many rows wait, none waits for more: no larger batch runs them faster. At most ``max_rows``;
            1 where batching does not pay.
        ample_rows: where so many rows wait, they let no batch of younger rows go first, to gather more meanwhile: a
            larger batch would not save enough. At most ``full_rows``.
    """

    max_rows: int
    full_rows: int
    ample_rows: int


def batch_limits(profile: Mapping[int, float] | None, max_batch_size: int) -> BatchLimits:
    """Read from a member's profile which batches pay.

    Args:
        profile: batch size → seconds per image; None where it was not measured. With fewer than two sizes up to the
            bound nothing is known, and any batch may pay.
        max_batch_size: the operator's bound.

    Returns:
        the smallest profiled sizes within ``TOLERANCE`` of the best, or ``AMPLE_TOLERANCE``: for a batch, with the
        engine's own time counted; for waiting, without it, as no row should wait only to save the engine's.
    """
    profiled = {size: seconds for size, seconds in (profile or {}).items() if size <= max_batch_size}
    if len(profiled) < 2:
        return BatchLimits(max_rows=max_batch_size, full_rows=max_batch_size, ample_rows=max_batch_size)
    full_rows = _smallest_good(profiled, lambda size: profiled[size], TOLERANCE)
    max_rows = _smallest_good(profiled, lambda size: profiled[size] + BATCH_OVERHEAD_S / size, TOLERANCE)
    ample_rows = _smallest_good(profiled, lambda size: profiled[size], AMPLE_TOLERANCE)
    return BatchLimits(max_rows=max(max_rows, full_rows), full_rows=full_rows, ample_rows=ample_rows)


def _smallest_good(sizes: Iterable[int], seconds: Callable[[int], float], tolerance: float) -> int:
    best = min(seconds(size) for size in sizes)
    return min(size for size in sizes if seconds(size) <= (1 + tolerance) * best)
