"""The Wilson interval against values worked by hand, scipy's, and its own symmetries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cascade_serve.core.interval import wilson_interval

TRIALS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Worked by hand from (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964.
        (50, 100, 0.403832, 0.596168),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (1, 1, 0.206549, 1.0),
    ],
)
def test_by_hand(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("hits", "n"), [(0, 7), (7, 7), (1, 3), (930, 1000), (49_999, 50_000)])
def test_agrees_with_scipy(hits: int, n: int, level: float) -> None:
    expected = binomtest(hits, n).proportion_ci(confidence_level=level, method="wilson")
    assert wilson_interval(hits, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(TRIALS)
def test_holds_the_share_and_mirrors(trial: tuple[int, int]) -> None:
    hits, n = trial
    low, high = wilson_interval(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    mirrored_low, mirrored_high = wilson_interval(n - hits, n)
    assert (low, high) == pytest.approx((1 - mirrored_high, 1 - mirrored_low), abs=1e-9)


@given(TRIALS, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_higher_level_is_wider(trial: tuple[int, int], level: float, other: float) -> None:
    inner, outer = (wilson_interval(*trial, one) for one in sorted((level, other)))
    assert outer[0] <= inner[0]
    assert inner[1] <= outer[1]
