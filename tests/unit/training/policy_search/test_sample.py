import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.policy_search.sample import stratified_rows


def test_each_class_gets_its_share() -> None:
    labels_N = np.repeat([0, 1, 2], [10, 20, 30])
    rows_B = stratified_rows(labels_N, 12, np.random.default_rng(0))
    assert np.bincount(labels_N[rows_B]).tolist() == [2, 4, 6]
    assert rows_B.dtype == np.int64


def test_odd_rows_go_to_the_largest_remainders() -> None:
    # Shares of 7 are 1.4, 2.1 and 3.5: one row is left over.
    labels_N = np.repeat([0, 1, 2], [4, 6, 10])
    rows_B = stratified_rows(labels_N, 7, np.random.default_rng(0))
    assert np.bincount(labels_N[rows_B]).tolist() == [1, 2, 4]


def test_equal_remainders_are_settled_by_chance() -> None:
    labels_N = np.repeat([0, 1], [5, 5])
    generator = np.random.default_rng(0)
    odd = [int(labels_N[stratified_rows(labels_N, 3, generator)].sum()) for _ in range(100)]
    assert set(odd) == {1, 2}


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), data=st.data(), seed=st.integers(0, 99))
def test_rows_are_distinct_sorted_and_within_one_of_their_share(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    labels_N = np.array(labels)
    size = data.draw(st.integers(0, len(labels)))
    rows_B = stratified_rows(labels_N, size, np.random.default_rng(seed))
    assert len(rows_B) == size
    assert (np.diff(rows_B) > 0).all()
    for label in set(labels):
        share = size * labels.count(label) / len(labels)
        assert abs(int((labels_N[rows_B] == label).sum()) - share) < 1
    assert (rows_B == stratified_rows(labels_N, size, np.random.default_rng(seed))).all()


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size: got 3; must be at most 2"):
        stratified_rows(np.zeros(2, dtype=np.int64), 3, np.random.default_rng(0))
