from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment.policy import MAX_MAGNITUDE, MAX_PROBABILITY, PolicyEntry
from training.policy_search.explore import ExploreDraws, apply_draws, draw, explore, random_policy

_ENTRIES = st.builds(
    PolicyEntry,
    op=st.sampled_from(["rotate", "invert"]),
    probability=st.integers(0, MAX_PROBABILITY),
    magnitude=st.integers(0, MAX_MAGNITUDE),
)


def test_resamples_moves_and_clips_as_drawn() -> None:
    policy = (
        PolicyEntry(op="rotate", probability=4, magnitude=5),
        PolicyEntry(op="rotate", probability=9, magnitude=1),
        PolicyEntry(op="invert", probability=0, magnitude=9),
    )
    draws = ExploreDraws(
        resampled_E2=np.array([[True, False], [False, False], [False, False]]),
        fresh_E2=np.array([[10, 0], [3, 3], [3, 3]]),
        moves_E2=np.array([[-1, 2], [3, -2], [0, 1]]),
    )
    assert apply_draws(policy, draws) == (
        PolicyEntry(op="rotate", probability=10, magnitude=7),  # drawn anew; 5 + 2
        PolicyEntry(op="rotate", probability=10, magnitude=0),  # 9 + 3 and 1 - 2, clipped
        PolicyEntry(op="invert", probability=0, magnitude=9),  # 0 + 0; 9 + 1, clipped
    )


def test_draws_have_the_papers_shares() -> None:
    draws = draw(40_000, np.random.default_rng(0), 0.2)
    assert draws.resampled_E2.mean() == pytest.approx(0.2, abs=0.01)
    # A step of 0 has two signs: twice the share of each of the others, which are 1/8.
    shares = {move: float((draws.moves_E2 == move).mean()) for move in range(-3, 4)}
    assert shares == {move: pytest.approx(0.25 if move == 0 else 0.125, abs=0.01) for move in range(-3, 4)}
    for column, largest in enumerate((MAX_PROBABILITY, MAX_MAGNITUDE)):
        counts = np.bincount(draws.fresh_E2[:, column], minlength=largest + 1)
        assert counts / len(draws.fresh_E2) == pytest.approx(np.full(largest + 1, 1 / (largest + 1)), abs=0.01)


def test_draws_of_different_numbers_are_independent() -> None:
    draws = draw(40_000, np.random.default_rng(1), 0.2)
    series = np.stack(
        [values[:, column].astype(float) for values, column in product(_fields(draws), (0, 1))],
    )
    correlations = np.corrcoef(series) - np.eye(len(series))
    assert np.abs(correlations).max() < 0.02


def _fields(draws: ExploreDraws) -> tuple[np.ndarray, ...]:
    return draws.resampled_E2, draws.fresh_E2, draws.moves_E2


@given(policy=st.lists(_ENTRIES, max_size=40).map(tuple), seed=st.integers(0, 2**32), probability=st.floats(0, 1))
def test_keeps_the_ops_and_the_ranges(policy: tuple[PolicyEntry, ...], seed: int, probability: float) -> None:
    # PolicyEntry itself refuses numbers out of range.
    explored = explore(policy, np.random.default_rng(seed), probability)
    assert [entry.op for entry in explored] == [entry.op for entry in policy]
    assert explored == explore(policy, np.random.default_rng(seed), probability)


@given(policy=st.lists(_ENTRIES, max_size=40).map(tuple), seed=st.integers(0, 2**32))
def test_without_resampling_moves_by_three_at_most(policy: tuple[PolicyEntry, ...], seed: int) -> None:
    for before, after in zip(policy, explore(policy, np.random.default_rng(seed), 0), strict=True):
        assert abs(before.probability - after.probability) <= 3
        assert abs(before.magnitude - after.magnitude) <= 3


def test_always_resampling_forgets_the_old_policy() -> None:
    zero, full = (
        tuple(PolicyEntry(op="rotate", probability=value, magnitude=value) for _ in range(30)) for value in (0, 9)
    )
    assert explore(zero, np.random.default_rng(3), 1) == explore(full, np.random.default_rng(3), 1)


def test_random_policy_is_uniform_over_both_ranges() -> None:
    policy = random_policy(["rotate"] * 20_000, np.random.default_rng(0))
    probabilities = np.bincount([entry.probability for entry in policy])
    magnitudes = np.bincount([entry.magnitude for entry in policy])
    assert probabilities / len(policy) == pytest.approx(np.full(11, 1 / 11), abs=0.01)
    assert magnitudes / len(policy) == pytest.approx(np.full(10, 1 / 10), abs=0.01)
