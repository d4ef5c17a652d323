"""Order, ties, sizes and quotas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SelectionError
from training.selection.ranking import class_quotas, rank, subset_size


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_highest_comes_first() -> None:
    scores = np.array([0.5, np.inf, -1, 3], dtype=np.float32)
    assert rank(scores, rng()).tolist() == [1, 3, 0, 2]


def test_ties_are_drawn_and_never_by_index() -> None:
    scores = np.array([1, 2, 1, 2, 1], dtype=np.float32)
    orders = [tuple(rank(scores, rng(seed))) for seed in range(300)]
    assert all(set(order[:2]) == {1, 3} for order in orders)
    # 2! x 3! orders, each about 25 times.
    counts = {order: orders.count(order) for order in orders}
    assert len(counts) == 12
    assert all(8 < count < 50 for count in counts.values())
    assert orders[0] == tuple(rank(scores, rng(0)))


def test_nan_is_refused() -> None:
    with pytest.raises(SelectionError, match=r"^scores: 2 of 3 are NaN; did the proxy diverge\?$"):
        rank(np.array([1, np.nan, np.nan], dtype=np.float32), rng())


@pytest.mark.parametrize(
    ("images", "fraction", "size"), [(10, 0.25, 3), (10, 0.24, 2), (50_000, 0.3, 15_000), (3, 0.01, 1)]
)
def test_sizes(images: int, fraction: float, size: int) -> None:
    assert subset_size(images, fraction) == size


def test_a_fraction_of_nothing_is_refused() -> None:
    with pytest.raises(SelectionError, match=r"^images: got 0; must be at least 1$"):
        subset_size(0, 0.5)


def test_quotas_by_hand() -> None:
    # 10 of 60, 30 and 10: shares 6, 3, 1. 5 of 2, 2 and 2: 1.67 each, two of them rounded up.
    assert class_quotas(np.array([60, 30, 10]), 10, rng()).tolist() == [6, 3, 1]
    assert sorted(class_quotas(np.array([2, 2, 2]), 5, rng()).tolist()) == [1, 2, 2]
    # The largest remainder: 3 of 5, 3, 2 is 1.5, 0.9, 0.6.
    assert class_quotas(np.array([5, 3, 2]), 3, rng()).tolist() == [1, 1, 1]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.floats(0, 1), st.integers(0, 5))
def test_quotas_sum_up_and_fit(counts: list[int], share: float, seed: int) -> None:
    size = int(share * sum(counts))
    quotas = class_quotas(np.array(counts), size, rng(seed))
    assert quotas.sum() == size
    assert (quotas <= counts).all()
    proportions = np.array(counts) * size / max(1, sum(counts))
    assert (np.abs(quotas - proportions) < 1).all()
