"""Which batches pay, from profiles worked by hand; the engine's own time is 150 microseconds a batch."""

import pytest

from cascade_serve.engine.batching import BATCH_OVERHEAD_S, BatchLimits, batch_limits


def profile(*milliseconds: float) -> dict[int, float]:
    """Seconds per image at batch sizes 1, 2, 4, ..."""
    return {2**power: 1e-3 * value for power, value in enumerate(milliseconds)}


CASES = {
    # Within 5 % of 0.30 is 0.315: eight need not wait for more. With the engine's time eight take 0.32875 and 16
    # take 0.309375, and within 5 % of the best, 0.3047, is 0.3199. Within a third of 0.30 is 0.40.
    "batching pays, for waiting up to eight": (profile(0.50, 0.39, 0.35, 0.31, 0.30, 0.30), 32, (16, 8, 2)),
    # With the engine's 0.15, 0.075, ... an image: 10.15, 10.075, ... against a best of 10.005.
    # Within a third of 0.73 is 0.973. With the engine's time four take 0.7675 and eight 0.7588.
    "one row gives way where four save more than a quarter": (profile(1, 0.8, 0.73, 0.74), 8, (4, 4, 2)),
    "a dear member that batching does not help": (profile(10, 10, 10, 10, 10, 10), 32, (1, 1, 1)),
    # 1.15, 1.075, 1.0375, 1.01875, 1.009, 1.0047; within 5 % of the last is 1.0549.
    "no waiting, but the engine's time is shared by four": (profile(1, 1, 1, 1, 1, 1), 32, (4, 1, 1)),
    # 0.35, 0.275, 0.2375, 0.21875, 0.209375, 0.2047; within 5 % of the last is 0.2149.
    "a cheap member shares it by sixteen": (profile(0.2, 0.2, 0.2, 0.2, 0.2, 0.2), 32, (16, 1, 1)),
    "larger batches are slower": (profile(10, 11, 12, 13), 32, (1, 1, 1)),
    "it still falls at the end": (profile(16, 8, 4, 2, 1, 0.5), 32, (32, 32, 32)),
    "the operator's bound comes first": (profile(16, 8, 4, 2, 1, 0.5), 5, (4, 4, 4)),
    # 0.0041 is best of those up to 4; 0.0042 is within 5 % of it, with the engine's time too.
    "sizes past the bound have no say": ({1: 0.005, 2: 0.0042, 4: 0.0041, 8: 0.001}, 4, (2, 2, 1)),
    "one size says nothing about batching": ({1: 0.001}, 32, (32, 32, 32)),
    "sizes past the bound say nothing either": ({1: 0.001, 8: 0.0001}, 4, (4, 4, 4)),
    "no profile": (None, 32, (32, 32, 32)),
    "an empty profile": ({}, 7, (7, 7, 7)),
    "one row at a time": (profile(16, 8), 1, (1, 1, 1)),
}


@pytest.mark.parametrize(("seconds", "bound", "expected"), CASES.values(), ids=CASES)
def test_the_smallest_size_that_is_as_good_as_the_best(
    seconds: dict[int, float] | None, bound: int, expected: tuple[int, int, int]
) -> None:
    assert BATCH_OVERHEAD_S == 1.5e-4
    max_rows, full_rows, ample_rows = expected
    limits = BatchLimits(max_rows=max_rows, full_rows=full_rows, ample_rows=ample_rows)
    assert batch_limits(seconds, bound) == limits
