"""Promises with a level: exact tests on rows that the choice did not see, and the walk that spends one level on many.

Source: Angelopoulos et al., "Learn then Test" (arXiv 2110.01052), section 2.3 and appendix: hypotheses in an order that
was fixed beforehand are each tested at the full level, up to the first that is not rejected; all rejections then hold
together with probability at least the level. The order comes from half A, the tests from half B.

**The bound on a paired difference.** The policy and the reference answer the same n rows; only rows where exactly one
of them is right matter (wins w, losses l). The test here is exact and unconditional: the rows at least as favourable
as the observed ones by Tango's score statistic (Statistics in Medicine 17, 1998) make a region, whose probability is
computed and maximised over the unknown share of discordant rows within its Clopper-Pearson interval, which misses
with a fiftieth of the error allowed, and that fiftieth is paid for (Berger and Boos, JASA 89, 1994). Exact
unconditional tests of paired non-inferiority are due to Hsueh, Liu and Chen (Biometrics 57, 2001). At n = 2,500, level
0.95, 100 wins and 100 losses it lies 0.94 points under the measured difference. The normal bound lies 0.93 points
under, Tango's score bound 0.94, but both are valid in the limit only; Clopper-Pearson bounds on wins and losses apart,
each with half of the error, 1.58; and a betting bound (a product of 1 + bet x gain, as for an empirical Bernstein
bound), even with the best bet in hindsight, 1.39. Exactness costs next to nothing, so there is no reason to do without.

**What is exact, and what nearly so.** The tests are exact for rows drawn independently. The halves are stratified, so
that half B has half A's class shares: a class mix that flatters a policy on A flatters it on B too. That concerns only
the part of a policy's variance that lies between classes, which is small beside that within them, and makes half B's
mean vary less than the tests assume, which errs on the safe side.
"""
# Shapes: N rows of half B, D numbers of discordant rows, Q values of the unknown share.

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, betaincinv, gammaln, xlog1py, xlogy

from cascade_serve.core.arrays import BoolArray

_SHARE_OF_ERROR = 1 / 50
_NUM_SHARES = 25
_TAIL_DEVIATIONS = 7.0
_BISECTIONS = 16

RealArray = NDArray[np.float64]


class PromiseTest(Protocol):
    """A one-sided test of one promise."""

    def accepts(self, correct_N: BoolArray) -> bool:
        """Tell whether the promise may be given for a policy that is right on these rows."""
        ...

    def lower_bound(self, correct_N: BoolArray) -> float:
        """Give the largest number that could have been promised."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RegretTest:
    """Tests that accuracy is at most ``max_regret`` below the reference's, on the same rows.

    Attributes:
        reference_N: bool [N], rows that the reference gets right.
        max_regret: share of rows.
        level: in (0, 1).
    """

    reference_N: BoolArray
    max_regret: float
    level: float

    def accepts(self, correct_N: BoolArray) -> bool:
        """Tell whether the exact p-value is at most 1 - level."""
        wins, losses = self._discordant(correct_N)
        p_value = paired_p_value(
            n=len(correct_N), wins=wins, losses=losses, difference=-self.max_regret, error=1 - self.level
        )
        return p_value <= 1 - self.level

    def lower_bound(self, correct_N: BoolArray) -> float:
        """Give the bound on accuracy minus the reference's."""
        wins, losses = self._discordant(correct_N)
        return paired_lower_bound(n=len(correct_N), wins=wins, losses=losses, level=self.level)

    def _discordant(self, correct_N: BoolArray) -> tuple[int, int]:
        return int((correct_N & ~self.reference_N).sum()), int((~correct_N & self.reference_N).sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyTest:
    """Tests that accuracy is at least ``min_accuracy``.

    Attributes:
        min_accuracy: share of rows.
        level: in (0, 1).
    """

    min_accuracy: float
    level: float

    def accepts(self, correct_N: BoolArray) -> bool:
        """Tell whether the Clopper-Pearson bound reaches ``min_accuracy``."""
        return self.lower_bound(correct_N) >= self.min_accuracy

    def lower_bound(self, correct_N: BoolArray) -> float:
        """Give the Clopper-Pearson bound on accuracy."""
        return binomial_lower_bound(n=len(correct_N), hits=int(correct_N.sum()), level=self.level)


def count_accepted(path: Iterable[BoolArray], test: PromiseTest) -> int:
    """Walk along a path and stop at the first policy that the test does not accept.

    Args:
        path: correct rows of each policy, bool [N], from dear to cheap; an order that these rows had no say in.
        test: the promise.

    Returns:
        how many were accepted; all of their promises hold together at the test's level.
    """
    accepted = 0
    for correct_N in path:
        if not test.accepts(correct_N):
            break
        accepted += 1
    return accepted


def binomial_lower_bound(*, n: int, hits: int, level: float) -> float:
    """Give the one-sided Clopper-Pearson lower bound on a share.

    Args:
        n: rows.
        hits: of them.
        level: in (0, 1).
    """
    return 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, 1 - level))


def binomial_interval(*, n: int, hits: int, level: float) -> tuple[float, float]:
    """Give the two-sided Clopper-Pearson interval of a share (arguments as above)."""
    one_sided = (1 + level) / 2
    return (
        binomial_lower_bound(n=n, hits=hits, level=one_sided),
        1 - binomial_lower_bound(n=n, hits=n - hits, level=one_sided),
    )


def paired_p_value(*, n: int, wins: int, losses: int, difference: float, error: float = 0.05) -> float:
    """Test that the true difference in accuracy is at most ``difference``, exactly (see the module's head).

    Args:
        n: rows, at least 1.
        wins: rows that only the policy gets right.
        losses: rows that only the reference gets right.
        difference: the boundary of the hypothesis, in (-1, 1).
        error: the p-value that will be acted upon; its fiftieth pays for the interval of the unknown share.

    Returns:
        the p-value, in [0, 1].
    """
    observed = float(_tango(n, np.array([float(wins)]), np.array([float(losses)]), difference)[0])
    share_Q = _plausible_shares(n, wins + losses, difference, error * _SHARE_OF_ERROR)
    lowest, highest = share_Q[0], share_Q[-1]
    slack = [_TAIL_DEVIATIONS * np.sqrt(n * share * (1 - share)) + _TAIL_DEVIATIONS for share in (lowest, highest)]
    discordant_D = np.arange(max(0, np.floor(n * lowest - slack[0])), min(n, np.ceil(n * highest + slack[1])) + 1)
    fewest_wins_D = _fewest_wins(n, discordant_D, difference, observed)
    win_share_Q1 = ((1 + difference / share_Q) / 2).clip(0, 1)[:, None]
    mass_QD = _binomial_mass(n, discordant_D, share_Q[:, None])
    tail_QD = bdtrc(fewest_wins_D - 1, discordant_D.astype(np.int64), win_share_Q1)
    # Numbers of discordant rows too unlikely to be looked at count as favourable: that errs on the safe side.
    probability_Q = (mass_QD * tail_QD).sum(axis=1) + (1 - mass_QD.sum(axis=1)).clip(0)
    return min(1.0, float(probability_Q.max()) + error * _SHARE_OF_ERROR)


def paired_lower_bound(*, n: int, wins: int, losses: int, level: float) -> float:
    """Give the one-sided lower bound on the difference in accuracy: the tests above, turned round.

    Args:
        n: rows, at least 1.
        wins: rows that only the policy gets right.
        losses: rows that only the reference gets right.
        level: in (0, 1).
    """

    def is_above(difference: float) -> bool:
        p_value = paired_p_value(n=n, wins=wins, losses=losses, difference=difference, error=1 - level)
        return p_value <= 1 - level

    above = (wins - losses) / n
    nearby = above - 4 * (math.sqrt(wins + losses) + 4) / n
    below = nearby if nearby > -1 and is_above(nearby) else -1.0
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        below, above = (middle, above) if is_above(middle) else (below, middle)
    return below


def _tango(n: int, wins_D: RealArray, losses_D: RealArray, difference: float) -> RealArray:
    """Tango's score statistic (1998, equations 5 to 8): large where the difference is above ``difference``."""
    excess_D = wins_D - losses_D - n * difference
    linear_D = (2 * n - wins_D + losses_D) * difference - wins_D - losses_D
    constant_D = -losses_D * difference * (1 - difference)
    root_D = np.sqrt(np.maximum(linear_D**2 - 8 * n * constant_D, 0))
    loss_share_D = np.maximum((root_D - linear_D) / (4 * n), max(0.0, -difference))
    variance_D = n * (2 * loss_share_D + difference * (1 - difference))
    # Without variance there is no discordant row and no margin: nothing speaks for either side.
    return np.where(variance_D > 0, excess_D / np.sqrt(np.maximum(variance_D, 1e-300)), 0.0)


def _plausible_shares(n: int, discordant: int, difference: float, error: float) -> RealArray:
    """Lay a grid over the discordant shares within the 1 - error interval that the difference leaves possible."""
    lower, upper = binomial_interval(n=n, hits=discordant, level=1 - error)
    least = max(abs(difference), 1e-12)
    return np.linspace(max(lower, least), max(upper, least), _NUM_SHARES)


def _fewest_wins(n: int, discordant_D: RealArray, difference: float, observed: float) -> RealArray:
    """Find, for each number of discordant rows, the fewest wins as favourable as what was observed."""
    low_D, high_D = np.zeros_like(discordant_D), discordant_D + 1
    tolerance = 1e-9 * max(1.0, abs(observed))
    while np.any(low_D < high_D):
        middle_D = np.floor((low_D + high_D) / 2)
        enough_D = _tango(n, middle_D, discordant_D - middle_D, difference) >= observed - tolerance
        high_D = np.where(enough_D, middle_D, high_D)
        low_D = np.where(enough_D, low_D, np.minimum(middle_D + 1, high_D))
    return high_D


def _binomial_mass(n: int, hits_D: RealArray, share_Q1: RealArray) -> RealArray:
    """Give the binomial probability of each number of hits at each share, [Q, D]."""
    choices_D = gammaln(n + 1) - gammaln(hits_D + 1) - gammaln(n - hits_D + 1)
    mass_QD: RealArray = np.exp(choices_D + xlogy(hits_D, share_Q1) + xlog1py(n - hits_D, -share_Q1))
    return mass_QD
