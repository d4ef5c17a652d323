"""Coverage-centric sampling: strata, shares and the hard share, by hand and for any scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SelectionError
from training.selection.ccs import deal, sample_strata


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("sizes", "size", "shares"),
    [
        # 12 over 3 strata is 4: the smallest has 2; 10 over 2 is 5; the rest is 5.
        ([10, 2, 20], 12, [5, 2, 5]),
        # Left-overs of the division go on to the larger ones: 7 // 3, then 5 // 2, then 3.
        ([3, 3, 3], 7, [2, 2, 3]),
        ([0, 5, 0, 1], 4, [0, 3, 0, 1]),
        ([4, 4], 8, [4, 4]),
        ([4, 4], 0, [0, 0]),
    ],
)
def test_the_budget_is_dealt_smallest_stratum_first(sizes: list[int], size: int, shares: list[int]) -> None:
    assert deal(np.array(sizes), size).tolist() == shares


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.floats(0, 1))
def test_shares_sum_to_what_was_asked_for(sizes: list[int], share: float) -> None:
    size = int(share * sum(sizes))
    shares = deal(np.array(sizes), size)
    assert shares.sum() == size
    assert (shares <= np.array(sizes)).all()
    # Even: no stratum gives less than another unless it is used up, but for what a division leaves.
    unspent = shares[shares < np.array(sizes)]
    assert len(unspent) == 0 or shares.max() <= unspent.min() + 1


def test_by_hand() -> None:
    # Scores 0..9, and ten 9s; β = 0.1 drops two of the 9s; bins of 0..3, 3..6, 6..9 (9 closes the last).
    scores = np.array([*range(10), *([9] * 10)], dtype=np.float32)
    counts = np.zeros(20, dtype=np.int64)
    for seed in range(200):
        chosen = sample_strata(scores, 9, rng(seed), hard_share=0.1, num_strata=3)
        assert len(set(chosen.tolist())) == 9
        assert sorted(np.digitize(scores[chosen], [3, 6]).tolist()) == [0] * 3 + [1] * 3 + [2] * 3
        counts[chosen] += 1
    assert (counts[:6] == 200).all()
    # The last bin: 6, 7, 8 and nine of eleven 9s.
    assert all(30 < count < 80 for count in counts[6:])


def test_the_hardest_are_dropped() -> None:
    scores = np.arange(100, dtype=np.float32)
    for seed in range(20):
        chosen = sample_strata(scores, 60, rng(seed), hard_share=0.3, num_strata=10)
        assert chosen.max() < 70
    # 0.29 of 100 is 28.999999999999996 in floating point.
    assert sample_strata(scores, 71, rng(), hard_share=0.29, num_strata=5).max() == 70


def test_easy_and_hard_get_the_same_where_scores_are_skewed() -> None:
    scores = np.concatenate([np.zeros(900), np.linspace(0.5, 1, 100)]).astype(np.float32)
    chosen = sample_strata(scores, 100, rng(), hard_share=0.0, num_strata=2)
    assert (chosen < 900).sum() == 50


def test_infinite_scores_join_the_top_stratum() -> None:
    scores = np.array([0, 0, 5, 10, np.inf, np.inf], dtype=np.float32)
    for seed in range(20):
        chosen = sample_strata(scores, 3, rng(seed), hard_share=0.0, num_strata=3)
        # Bins {0, 0}, {5}, {10, inf, inf}: one of each.
        assert sorted(np.array([0, 0, 1, 2, 2, 2])[chosen].tolist()) == [0, 1, 2]
    all_infinite = np.full(5, np.inf, dtype=np.float32)
    assert len(sample_strata(all_infinite, 3, rng(), hard_share=0.2, num_strata=4)) == 3


def test_equal_scores_are_drawn_from_at_random() -> None:
    drawn = {
        tuple(sorted(sample_strata(np.ones(6, np.float32), 2, rng(seed), hard_share=0.0, num_strata=5)))
        for seed in range(99)
    }
    assert len(drawn) > 10


def test_too_many_are_refused() -> None:
    message = r"^ccs: size: got 91; must be in 0\.\.90, what a hard_share of 0\.1 leaves of 100$"
    with pytest.raises(SelectionError, match=message):
        sample_strata(np.arange(100, dtype=np.float32), 91, rng(), hard_share=0.1, num_strata=50)
    assert len(sample_strata(np.zeros(0, np.float32), 0, rng(), hard_share=0.1, num_strata=3)) == 0


@given(
    st.lists(st.floats(0, 1, width=32) | st.just(float("inf")), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0, 0.9),
    st.integers(1, 60),
    st.integers(0, 5),
)
def test_it_always_gives_what_was_asked_for(
    scores: list[float], share: float, hard_share: float, num_strata: int, seed: int
) -> None:
    left = len(scores) - int(hard_share * len(scores) + 1e-9)
    size = int(share * left)
    chosen = sample_strata(
        np.array(scores, dtype=np.float32), size, rng(seed), hard_share=hard_share, num_strata=num_strata
    )
    assert len(set(chosen.tolist())) == len(chosen) == size
    # Nothing that was kept is harder than the easiest dropped.
    dropped = sorted(scores, reverse=True)[: len(scores) - left]
    assert not dropped or all(scores[row] <= dropped[-1] for row in chosen)
