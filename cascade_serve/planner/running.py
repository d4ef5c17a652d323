"""Running predictions of every prefix of members, boiled down to what the search needs: grid codes and correctness."""
# Shapes: N rows, K classes, T thresholds of a grid.

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cascade_serve.core.arrays import BoolArray, CodeArray, FloatArray, IntArray
from cascade_serve.core.combine import Combine, include, probabilities
from cascade_serve.core.confidence import Confidence, confidence
from cascade_serve.planner.committee import Committee

NUM_THRESHOLDS = 16
_DECIMALS = 6

Subset = frozenset[int]
Prefix = tuple[int, ...]
Advance = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sureness:
    """How sure a set of members is of each row, on its own grid of thresholds.

    Attributes:
        thresholds_T: float32 [T], ascending and distinct; at most ``NUM_THRESHOLDS``.
        codes_N: uint8 [N], how many of the thresholds the row reaches: it exits at threshold j where its code is above
            j.
    """

    thresholds_T: FloatArray
    codes_N: CodeArray


class RunningPredictions:
    """What every prefix of members predicts on every row.

    A mean depends on which members have spoken, not on their order, so that prefixes share it: with 8 members and up to
    4 stages there are 162 sets, but 2,080 orders. (Sums of float32 in another order may differ in the last bit; what
    is reported of a policy is therefore evaluated anew, in the order of its stages.) Who spoke last matters only where
    the newest member has no answer.
    """

    def __init__(
        self,
        *,
        rule: Combine,
        usable: tuple[BoolArray, ...],
        correct: dict[Subset, BoolArray],
        sureness: dict[Subset, Sureness],
    ) -> None:
        self._rule = rule
        self._usable = usable
        self._is_complete = tuple(bool(usable_N.all()) for usable_N in usable)
        self._correct = correct
        self._sureness = sureness

    def correct(self, prefix: Prefix) -> BoolArray:
        """Tell which rows the prefix's members get right, bool [N]."""
        if self._rule is not Combine.LAST:
            return self._correct[frozenset(prefix)]
        newest = prefix[-1]
        own_N = self._correct[frozenset((newest,))]
        if self._is_complete[newest] or len(prefix) == 1:
            return own_N
        return np.where(self._usable[newest], own_N, self.correct(prefix[:-1]))

    def sureness(self, prefix: Prefix) -> Sureness:
        """Tell how sure the prefix's members are; a row that the newest has no answer for reaches no threshold."""
        newest = prefix[-1]
        shared = self._sureness[frozenset((newest,)) if self._rule is Combine.LAST else frozenset(prefix)]
        if self._is_complete[newest]:
            return shared
        codes_N = np.where(self._usable[newest], shared.codes_N, np.uint8(0))
        return Sureness(thresholds_T=shared.thresholds_T, codes_N=codes_N)


def running_predictions(
    committee: Committee, combine: Combine, functions: tuple[Confidence, ...], max_members: int, advance: Advance
) -> dict[Confidence, RunningPredictions]:
    """Run every set of up to ``max_members`` members together, once for all confidence functions.

    Args:
        committee: the members' outputs.
        combine: how they speak together.
        functions: the confidence functions wanted.
        max_members: largest set.
        advance: called after each set.

    Returns:
        confidence function → the predictions.
    """
    scored = [committee.score(member, combine) for member in range(len(committee.names))]
    correct: dict[Subset, BoolArray] = {}
    sureness: dict[Confidence, dict[Subset, Sureness]] = {function: {} for function in functions}
    largest = largest_subset(combine, len(scored), max_members)
    for subset, probabilities_NK in _subsets(scored, combine, largest):
        is_right_N = probabilities_NK.argmax(axis=1) == committee.labels_N
        correct[subset] = is_right_N & ~np.isnan(probabilities_NK[:, 0])
        if len(subset) < max_members:
            for function in functions:
                sureness[function][subset] = rate(confidence(function, probabilities_NK))
        advance()
    usable = tuple(usable_N for _, usable_N in scored)
    return {
        function: RunningPredictions(rule=combine, usable=usable, correct=correct, sureness=sureness[function])
        for function in functions
    }


def largest_subset(combine: Combine, num_members: int, max_members: int) -> int:
    """Give the size of the largest set whose members must be run together."""
    return 1 if combine is Combine.LAST else min(max_members, num_members)


def _subsets(
    scored: list[tuple[FloatArray, BoolArray]], combine: Combine, largest: int
) -> Iterator[tuple[Subset, FloatArray]]:
    """Walk over all sets of members, each with its probabilities float32 [N, K]; sums are kept along the way down."""
    rows, classes = scored[0][0].shape
    stack: list[tuple[Prefix, FloatArray, IntArray]] = [
        ((), np.zeros((rows, classes), dtype=np.float32), np.zeros(rows, dtype=np.int64))
    ]
    while stack:
        members, sum_NK, count_N = stack.pop()
        for member in range(members[-1] + 1 if members else 0, len(scored)):
            new_sum_NK, new_count_N = include(combine, sum_NK, count_N, *scored[member])
            grown = (*members, member)
            yield frozenset(grown), probabilities(combine, new_sum_NK, new_count_N)
            if len(grown) < largest:
                stack.append((grown, new_sum_NK, new_count_N))


def rate(confidence_N: FloatArray) -> Sureness:
    """Lay a grid of thresholds over confidences, at even shares of the rows, with 1 at its end.

    Args:
        confidence_N: float32 [N] in [0, 1]; NaN reaches no threshold.

    Returns:
        the grid and each row's code on it.
    """
    known_N = confidence_N[~np.isnan(confidence_N)]
    shares = np.arange(1, NUM_THRESHOLDS) / NUM_THRESHOLDS
    quantiles = np.quantile(known_N, shares, method="higher") if len(known_N) else np.empty(0, np.float32)
    rounded = np.round(quantiles.astype(np.float64), _DECIMALS).clip(0, 1)
    # Thresholds are compared as float32, so that is how they must be distinct.
    thresholds_T = np.unique(np.append(rounded, 1.0).astype(np.float32))
    codes_N = np.searchsorted(thresholds_T, confidence_N, side="right").astype(np.uint8)
    codes_N[np.isnan(confidence_N)] = 0
    return Sureness(thresholds_T=thresholds_T, codes_N=codes_N)
