"""The gate: ties, NaN, and thresholds outside the scale."""

import math

import numpy as np

from cascade_serve.core.gate import should_exit


def test_a_tie_exits_and_each_row_has_its_own_threshold() -> None:
    confidence_B = np.array([0.9, 0.9, 0.9, 0.0, 1.0], dtype=np.float32)
    threshold_B = np.array([0.9, 0.95, 0.2, 0.0, 1.0], dtype=np.float32)
    assert should_exit(confidence_B, threshold_B).tolist() == [True, False, True, True, True]


def test_the_smallest_step_below_a_threshold_defers() -> None:
    below = np.nextafter(np.float32(0.9), np.float32(0))
    assert not should_exit(np.array([below], dtype=np.float32), np.array([0.9], dtype=np.float32))[0]


def test_nan_defers_whatever_the_threshold() -> None:
    confidence_B = np.full(4, np.nan, dtype=np.float32)
    threshold_B = np.array([0.0, 1.0, -math.inf, np.nan], dtype=np.float32)
    assert not should_exit(confidence_B, threshold_B).any()


def test_thresholds_outside_the_scale_let_all_or_none_out() -> None:
    confidence_B = np.array([0.0, 1.0], dtype=np.float32)
    assert should_exit(confidence_B, np.full(2, -math.inf, dtype=np.float32)).all()
    assert not should_exit(confidence_B, np.full(2, 1.1, dtype=np.float32)).any()


def test_no_rows() -> None:
    empty_B = np.empty(0, dtype=np.float32)
    assert should_exit(empty_B, empty_B).shape == (0,)
