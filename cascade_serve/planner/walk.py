"""From a front to promises: thin it to a path on half A, walk the path on half B, name what was accepted."""
# Shapes: N rows of half B.

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cascade_serve.core.arrays import BoolArray
from cascade_serve.core.plan import Promise
from cascade_serve.planner.certificate import AccuracyTest, PromiseTest, RegretTest, count_accepted
from cascade_serve.planner.demands import Demands
from cascade_serve.planner.search import Candidate

MAX_PATH = 40


def thin(front: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Take a path from a front: at most ``MAX_PATH`` points, spread evenly over the logarithm of mean cost.

    Args:
        front: from cheap to dear.

    Returns:
        from dear to cheap: the most accurate point of each slice of costs.
    """
    if not front:
        return ()
    cheapest, dearest = math.log(front[0].mean_cost), math.log(front[-1].mean_cost)
    width = (dearest - cheapest) / MAX_PATH or 1.0
    best_of_slice = {int((dearest - math.log(point.mean_cost)) / width): point for point in front}
    # The cheapest point lies on the last slice's edge, in a slice of its own, unless rounding says otherwise.
    path = list(best_of_slice.values())[::-1]
    return tuple(path if len(path) <= MAX_PATH else [*path[: MAX_PATH - 1], path[-1]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """How far a walk came.

    Attributes:
        main: points of the path, from its start, that keep the promise of ``default``.
        fast: that keep the promise of ``fast``; never fewer, since that promise is weaker.
    """

    main: int
    fast: int


def make_test(demands: Demands, bound: float, reference_N: BoolArray) -> PromiseTest:
    """Give the test of a promise.

    Args:
        demands: kind and level.
        bound: the promised number.
        reference_N: bool [N], rows that the reference gets right.
    """
    if demands.promise is Promise.MAX_REGRET:
        return RegretTest(reference_N=reference_N, max_regret=bound, level=demands.level)
    return AccuracyTest(min_accuracy=bound, level=demands.level)


def walk(demands: Demands, path: Sequence[BoolArray], reference_N: BoolArray) -> Accepted:
    """Walk a path twice, for the promises of ``default`` and of ``fast``.

    Args:
        demands: the promise.
        path: correct rows of each policy, bool [N], from dear to cheap.
        reference_N: bool [N], rows that the reference gets right.
    """
    main = count_accepted(path, make_test(demands, demands.bound, reference_N))
    fast = count_accepted(path[main:], make_test(demands, demands.fast_bound, reference_N))
    return Accepted(main=main, fast=main + fast)
