"""The bounds: exact size by enumeration, hand-worked cases, and the walk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cascade_serve.core.arrays import BoolArray
from cascade_serve.planner.certificate import (
    AccuracyTest,
    RegretTest,
    binomial_interval,
    binomial_lower_bound,
    count_accepted,
    paired_lower_bound,
    paired_p_value,
)


def _rejects(n: int, wins: int, losses: int, regret: float, error: float) -> bool:
    return paired_p_value(n=n, wins=wins, losses=losses, difference=-regret, error=error) <= error


@pytest.mark.parametrize("n", [250, 1000, 5000])
@pytest.mark.parametrize("discordant_share", [0.01, 0.05, 0.15])
def test_size_by_enumeration(n: int, discordant_share: float) -> None:
    # The worst case: the policy is exactly max_regret worse. Summed over all draws, not simulated.
    regret, error = 0.005, 0.05
    shares = stats.binom(n, discordant_share)
    lowest, highest = (int(bound) for bound in (shares.ppf(1e-4), shares.ppf(1 - 1e-4)))
    win_share = (1 - regret / discordant_share) / 2
    size, fewest = 0.0, lowest // 4
    for discordant in range(lowest, highest + 1):
        # One discordant row more never rejects with fewer wins, so each number starts where the last one ended.
        while fewest <= discordant and not _rejects(n, fewest, discordant - fewest, regret, error):
            fewest += 1
        size += shares.pmf(discordant) * stats.binom.sf(fewest - 1, discordant, win_share)
    assert size <= error - 2e-4  # what lies outside the range summed over
    # ... and tight: little of the error allowed is left unused, once there are discordant rows to speak of.
    if n * discordant_share >= 25:
        assert size >= 0.043


def test_bound_is_near_the_normal_one() -> None:
    n, wins, losses = 2500, 100, 100
    normal = -1.6449 * np.sqrt((wins + losses) / n / n)
    assert paired_lower_bound(n=n, wins=wins, losses=losses, level=0.95) == pytest.approx(normal, rel=0.03)


def test_no_discordant_row_is_the_rule_of_three() -> None:
    # 0 losses in n rows speak against a loss of 3/n (1 - 0.05 ** (1 / n), to be exact).
    bound = paired_lower_bound(n=1000, wins=0, losses=0, level=0.95)
    assert bound == pytest.approx(-(1 - 0.05 ** (1 / 1000)), rel=0.02)
    assert bound < -(1 - 0.05 ** (1 / 1000))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 400),
    data=st.data(),
    difference=st.floats(-0.5, 0.5, allow_nan=False),
)
def test_p_value_is_a_probability_and_falls_with_wins(n: int, data: st.DataObject, difference: float) -> None:
    discordant = data.draw(st.integers(0, n))
    wins = data.draw(st.integers(0, discordant))
    p_value = paired_p_value(n=n, wins=wins, losses=discordant - wins, difference=difference)
    assert 0 < p_value <= 1
    if wins < discordant:
        better = paired_p_value(n=n, wins=wins + 1, losses=discordant - wins - 1, difference=difference)
        assert better <= p_value + 1e-9


@pytest.mark.parametrize(
    ("n", "wins", "losses"), [(1, 0, 0), (1, 1, 0), (1, 0, 1), (20, 20, 0), (20, 0, 20), (50_000, 2_000, 1_900)]
)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
def test_extremes_stay_finite_and_under_the_estimate(n: int, wins: int, losses: int, level: float) -> None:
    bound = paired_lower_bound(n=n, wins=wins, losses=losses, level=level)
    assert -1 <= bound < (wins - losses) / n or bound == -1


def test_higher_level_gives_lower_bound() -> None:
    bounds = [paired_lower_bound(n=2500, wins=90, losses=80, level=level) for level in (0.8, 0.95, 0.99, 0.999)]
    assert bounds == sorted(bounds, reverse=True)


def test_clopper_pearson_agrees_with_scipy() -> None:
    for hits, n in [(0, 10), (10, 10), (93, 100), (930, 1000)]:
        expected = stats.binomtest(hits, n, alternative="greater").proportion_ci(0.95, method="exact").low
        assert binomial_lower_bound(n=n, hits=hits, level=0.95) == pytest.approx(expected)
        two_sided = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
        assert binomial_interval(n=n, hits=hits, level=0.95) == pytest.approx((two_sided.low, two_sided.high))


def _rows(right: int, n: int) -> BoolArray:
    return np.arange(n) < right


def test_walk_stops_at_the_first_failure() -> None:
    # The fourth would pass, but comes after one that does not.
    path = [_rows(right, 1000) for right in (980, 960, 900, 990)]
    assert count_accepted(path, AccuracyTest(min_accuracy=0.94, level=0.95)) == 2
    assert count_accepted([], AccuracyTest(min_accuracy=0.94, level=0.95)) == 0


def test_accuracy_test_counts_the_tie() -> None:
    bound = binomial_lower_bound(n=1000, hits=950, level=0.95)
    assert AccuracyTest(min_accuracy=bound, level=0.95).accepts(_rows(950, 1000))
    assert not AccuracyTest(min_accuracy=bound + 1e-9, level=0.95).accepts(_rows(950, 1000))


def test_regret_test_sees_discordant_rows_alone() -> None:
    reference_N = _rows(900, 2000)
    test = RegretTest(reference_N=reference_N, max_regret=0.005, level=0.95)
    assert test.accepts(reference_N)
    assert test.accepts(_rows(910, 2000))
    assert not test.accepts(_rows(885, 2000))
    assert test.lower_bound(_rows(910, 2000)) == paired_lower_bound(n=2000, wins=10, losses=0, level=0.95)
