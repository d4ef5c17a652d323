"""Temperature scaling against hand-worked and simulated cases, and the stratified split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_serve.core.arrays import FloatArray, IntArray
from cascade_serve.core.combine import softmax
from cascade_serve.planner.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    expected_calibration_error,
    fit_temperature,
    reliability,
    split_halves,
)


def _labelled(temperature: float, rows: int = 20_000) -> tuple[FloatArray, IntArray]:
    """Logits whose labels are drawn at a known temperature."""
    rng = np.random.default_rng(3)
    logits_NK = rng.normal(0, 4, (rows, 5)).astype(np.float32)
    probabilities_NK = softmax((logits_NK / np.float32(temperature)).astype(np.float32)).astype(np.float64)
    draws_N1 = rng.random((rows, 1))
    labels_N = (probabilities_NK.cumsum(axis=1) < draws_N1).sum(axis=1).clip(0, 4)
    return logits_NK, labels_N.astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_temperature_that_drew_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*_labelled(temperature)) == pytest.approx(temperature, rel=0.04)


def test_two_class_case_has_the_closed_form() -> None:
    # Margin 2 and three of four right: sigmoid(2/T) = 3/4, so T = 2 / ln 3.
    logits_NK = np.tile(np.array([[2.0, 0.0]], dtype=np.float32), (4, 1))
    labels_N = np.array([0, 0, 0, 1])
    assert fit_temperature(logits_NK, labels_N) == pytest.approx(2 / np.log(3), rel=1e-3)


def test_rows_that_are_not_finite_are_left_out() -> None:
    logits_NK, labels_N = _labelled(2.5)
    broken_NK = np.concatenate([logits_NK, np.full((9, 5), np.nan, np.float32), np.full((9, 5), np.inf, np.float32)])
    broken_N = np.concatenate([labels_N, np.zeros(18, np.int64)])
    assert fit_temperature(broken_NK, broken_N) == fit_temperature(logits_NK, labels_N)


@pytest.mark.parametrize("margin", [1.0, 1e4, 1e30, 3e38])
@pytest.mark.parametrize("label", [0, 1])
def test_always_right_and_always_wrong_stay_finite(margin: float, label: int) -> None:
    logits_NK = np.tile(np.array([[margin, -margin / 4]], dtype=np.float32), (30, 1))
    temperature = fit_temperature(logits_NK, np.full(30, label))
    assert MIN_TEMPERATURE * 0.999 <= temperature <= MAX_TEMPERATURE * 1.001


def test_always_wrong_gets_the_upper_bound_and_no_evidence_gets_one() -> None:
    logits_NK = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (30, 1))
    assert fit_temperature(logits_NK, np.ones(30, np.int64)) == pytest.approx(MAX_TEMPERATURE)
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1.0
    assert fit_temperature(np.ones((5, 1), np.float32), np.zeros(5, np.int64)) == 1.0
    assert fit_temperature(np.full((5, 2), np.nan, np.float32), np.zeros(5, np.int64)) == 1.0


def test_reliability_by_hand() -> None:
    probabilities_NK = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [np.nan, np.nan]], dtype=np.float32)
    labels_N = np.array([0, 1, 0, 0])
    bins = reliability(probabilities_NK, labels_N, num_bins=2)
    assert bins.count_M.tolist() == [0, 3]
    assert np.isnan(bins.accuracy_M[0])
    assert bins.accuracy_M[1] == pytest.approx(2 / 3)
    assert bins.expected_error == pytest.approx(abs(2.3 / 3 - 2 / 3))


def test_a_bin_holds_its_upper_edge() -> None:
    probabilities_NK = np.array([[0.5, 0.5], [1.0, 0.0]], dtype=np.float32)
    assert reliability(probabilities_NK, np.array([0, 0]), num_bins=4).count_M.tolist() == [0, 1, 0, 1]


def test_temperature_lowers_the_calibration_error() -> None:
    logits_NK, labels_N = _labelled(2.5)
    before = expected_calibration_error(softmax(logits_NK), labels_N)
    after = expected_calibration_error(softmax(logits_NK / np.float32(fit_temperature(logits_NK, labels_N))), labels_N)
    assert after < 0.02 < before


def test_calibration_error_without_rows_is_nan() -> None:
    assert np.isnan(expected_calibration_error(np.empty((0, 3), np.float32), np.empty(0, np.int64)))


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=200), seed=st.integers(0, 2**32))
def test_halves_are_stratified_disjoint_and_complete(labels: list[int], seed: int) -> None:
    labels_N = np.array(labels)
    rows_A, rows_B = split_halves(labels_N, seed)
    assert sorted([*rows_A, *rows_B]) == list(range(len(labels)))
    assert 0 <= len(rows_A) - len(rows_B) <= 1
    for label in set(labels):
        assert abs(int((labels_N[rows_A] == label).sum()) - int((labels_N[rows_B] == label).sum())) <= 1
    assert np.array_equal(rows_A, split_halves(labels_N, seed)[0])
