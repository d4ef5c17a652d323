"""Combination rules against values worked by hand, with members that are broken, huge or silent."""

import math

import numpy as np
import pytest

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.combine import (
    LARGEST_LOGIT,
    LEAST_TEMPERATURE,
    Combine,
    are_usable,
    combine_stages,
    include,
    is_usable,
    member_score,
    probabilities,
    softmax,
)

NAN = float("nan")
ALL = list(Combine)


def floats(rows: object) -> FloatArray:
    return np.array(rows, dtype=np.float32)


def test_softmax_by_hand() -> None:
    probabilities_BK = softmax(floats([[0.0, math.log(3)], [5.0, 5.0]]))
    np.testing.assert_allclose(probabilities_BK, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


def test_softmax_of_huge_and_tiny_logits_stays_finite() -> None:
    probabilities_BK = softmax(floats([[1e30, 1e30], [1e30, -1e30], [-1e30, -1e30], [3e38, -3e38]]))
    assert probabilities_BK.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]


@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_softmax_gives_nan_without_a_warning_for_a_broken_row_alone(bad: float) -> None:
    probabilities_BK = softmax(floats([[bad, 0.0], [1.0, 1.0]]))
    assert np.isnan(probabilities_BK[0]).all()
    assert probabilities_BK[1].tolist() == [0.5, 0.5]


def test_softmax_does_not_change_its_argument() -> None:
    logits_BK = floats([[1.0, 2.0]])
    softmax(logits_BK)
    assert logits_BK.tolist() == [[1.0, 2.0]]


def test_is_usable() -> None:
    rows = [[0.0, 1.0], [NAN, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [1e30, -1e30], [2e30, 0.0]]
    assert is_usable(floats(rows)).tolist() == [True, False, False, False, True, False]
    assert is_usable(np.empty((0, 4), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("rule", [Combine.MEAN_PROBS, Combine.LAST])
def test_member_score_is_a_softmax_at_its_temperature(rule: Combine) -> None:
    score_BK = member_score(rule, floats([[0.0, 2 * math.log(3)]]), temperature=2.0)
    np.testing.assert_allclose(score_BK, [[0.25, 0.75]], rtol=1e-6)


def test_member_score_of_mean_logits_is_the_scaled_logits() -> None:
    logits_BK = floats([[1.0, -3.0]])
    score_BK = member_score(Combine.MEAN_LOGITS, logits_BK, temperature=2.0)
    assert score_BK.tolist() == [[0.5, -1.5]]
    assert not np.shares_memory(score_BK, member_score(Combine.MEAN_LOGITS, logits_BK, temperature=1.0))
    assert not np.shares_memory(logits_BK, member_score(Combine.MEAN_LOGITS, logits_BK, temperature=1.0))


def test_mean_probs_averages_probabilities() -> None:
    scores_BSK = floats([[[0.2, 0.8], [0.6, 0.4], [1.0, 0.0]]])
    combined_BK = combine_stages(Combine.MEAN_PROBS, scores_BSK, np.ones((1, 3), dtype=np.bool_))
    np.testing.assert_allclose(combined_BK, [[0.6, 0.4]], rtol=1e-6)


def test_mean_logits_is_the_softmax_of_the_mean() -> None:
    # The means are 0 and ln 3, and softmax(0, ln 3) = (1/4, 3/4).
    scores_BSK = floats([[[0.0, 0.0], [0.0, 2 * math.log(3)]]])
    combined_BK = combine_stages(Combine.MEAN_LOGITS, scores_BSK, np.ones((1, 2), dtype=np.bool_))
    np.testing.assert_allclose(combined_BK, [[0.25, 0.75]], rtol=1e-6)


def test_last_is_the_newest_member_alone() -> None:
    scores_BSK = floats([[[0.9, 0.1], [0.3, 0.7]]])
    combined_BK = combine_stages(Combine.LAST, scores_BSK, np.ones((1, 2), dtype=np.bool_))
    assert combined_BK.tolist() == floats([[0.3, 0.7]]).tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Scores of the members that can be used: (0.2, 0.8) and (0.6, 0.4); the middle one is broken.
        (Combine.MEAN_PROBS, [0.4, 0.6]),
        (Combine.MEAN_LOGITS, [1 / (1 + math.exp(0.2)), 1 / (1 + math.exp(-0.2))]),
        (Combine.LAST, [0.6, 0.4]),
    ],
)
def test_a_broken_member_is_left_out_as_if_not_asked(rule: Combine, expected: list[float]) -> None:
    scores_BSK = floats([[[0.2, 0.8], [NAN, NAN], [0.6, 0.4]]])
    combined_BK = combine_stages(rule, scores_BSK, np.array([[True, False, True]]))
    np.testing.assert_allclose(combined_BK, [expected], rtol=1e-6)


def test_last_with_a_broken_newest_member_keeps_the_one_before() -> None:
    scores_BSK = floats([[[0.2, 0.8], [NAN, NAN]]])
    combined_BK = combine_stages(Combine.LAST, scores_BSK, np.array([[True, False]]))
    assert combined_BK.tolist() == floats([[0.2, 0.8]]).tolist()


@pytest.mark.parametrize("rule", ALL)
def test_a_row_with_no_usable_member_is_nan_and_disturbs_no_other(rule: Combine) -> None:
    scores_BSK = floats([[[NAN, NAN], [NAN, NAN]], [[0.5, 0.5], [0.5, 0.5]]])
    combined_BK = combine_stages(rule, scores_BSK, np.array([[False, False], [True, True]]))
    assert np.isnan(combined_BK[0]).all()
    assert combined_BK[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("rule", ALL)
def test_no_stages_and_no_rows(rule: Combine) -> None:
    silent_BK = combine_stages(rule, np.empty((2, 0, 3), dtype=np.float32), np.empty((2, 0), dtype=np.bool_))
    assert silent_BK.shape == (2, 3)
    assert np.isnan(silent_BK).all()
    empty_BK = combine_stages(rule, np.empty((0, 2, 3), dtype=np.float32), np.empty((0, 2), dtype=np.bool_))
    assert empty_BK.shape == (0, 3)


def test_order_of_stages_matters_to_last_only() -> None:
    scores_BSK = floats([[[0.2, 0.8], [0.6, 0.4]]])
    usable_BS = np.ones((1, 2), dtype=np.bool_)
    for rule in (Combine.MEAN_PROBS, Combine.MEAN_LOGITS):
        forward_BK = combine_stages(rule, scores_BSK, usable_BS)
        np.testing.assert_allclose(forward_BK, combine_stages(rule, scores_BSK[:, ::-1], usable_BS), rtol=1e-6)
    assert combine_stages(Combine.LAST, scores_BSK, usable_BS).tolist() == floats([[0.6, 0.4]]).tolist()
    assert combine_stages(Combine.LAST, scores_BSK[:, ::-1], usable_BS).tolist() == floats([[0.2, 0.8]]).tolist()


@pytest.mark.parametrize("rule", ALL)
def test_include_changes_no_argument(rule: Combine) -> None:
    sum_BK, count_B = floats([[1.0, 2.0]]), np.array([1], dtype=np.int64)
    new_sum_BK, new_count_B = include(rule, sum_BK, count_B, floats([[3.0, 4.0]]), np.array([True]))
    assert sum_BK.tolist() == [[1.0, 2.0]]
    assert count_B.tolist() == [1]
    assert new_sum_BK.tolist() == ([[3.0, 4.0]] if rule is Combine.LAST else [[4.0, 6.0]])
    assert new_count_B.tolist() == ([1] if rule is Combine.LAST else [2])
    assert new_count_B.dtype == np.int64
    assert new_sum_BK.dtype == np.float32


@pytest.mark.parametrize("rule", ALL)
def test_probabilities_changes_no_argument(rule: Combine) -> None:
    sum_BK, count_B = floats([[1.0, 3.0], [0.0, 0.0]]), np.array([1, 0], dtype=np.int64)
    probabilities(rule, sum_BK, count_B)
    assert sum_BK.tolist() == [[1.0, 3.0], [0.0, 0.0]]


@pytest.mark.parametrize("rule", ALL)
def test_the_largest_allowed_logits_of_many_members_do_not_overflow(rule: Combine) -> None:
    logits_BK = floats([[1e30, -1e30]])
    score_BK = member_score(rule, logits_BK, temperature=0.05)
    scores_BSK = np.repeat(score_BK[:, None], 4, axis=1)
    assert combine_stages(rule, scores_BSK, np.ones((1, 4), dtype=np.bool_)).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("rule", ALL)
def test_the_largest_usable_logits_pass_no_range_at_the_least_temperature(rule: Combine) -> None:
    score_BK = member_score(rule, floats([[LARGEST_LOGIT, -LARGEST_LOGIT, 0.0]]), LEAST_TEMPERATURE)
    scaled_BK = floats([[LARGEST_LOGIT / 1e-7, -LARGEST_LOGIT / 1e-7, 0.0]])
    expected_BK = scaled_BK if rule is Combine.MEAN_LOGITS else floats([[1.0, 0.0, 0.0]])
    np.testing.assert_allclose(score_BK, expected_BK, rtol=1e-6)


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf, 1.1e30, -1.1e30])
def test_all_are_usable_where_each_is(bad: float) -> None:
    good_BK = floats([[LARGEST_LOGIT, -LARGEST_LOGIT], [0.0, 1.0]])
    assert are_usable(good_BK)
    assert are_usable(good_BK[:0])
    for place in np.ndindex(good_BK.shape):
        bad_BK = good_BK.copy()
        bad_BK[place] = bad
        assert not are_usable(bad_BK)
        assert is_usable(bad_BK).tolist() == [place[0] != 0, place[0] != 1]
