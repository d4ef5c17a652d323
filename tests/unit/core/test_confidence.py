"""Confidence functions against values worked by hand."""

import math

import numpy as np
import pytest

from cascade_serve.core.arrays import FloatArray
from cascade_serve.core.confidence import Confidence, confidence

ALL = list(Confidence)


def rate(function: Confidence, *rows: list[float]) -> FloatArray:
    return confidence(function, np.array(rows, dtype=np.float32))


@pytest.mark.parametrize(
    ("function", "row", "expected"),
    [
        (Confidence.MAX_PROB, [0.5, 0.3, 0.2], 0.5),
        (Confidence.MARGIN, [0.5, 0.3, 0.2], 0.2),
        # H = -(0.5 ln 0.5 + 0.25 ln 0.25 + 0.25 ln 0.25) = 1.5 ln 2, and ln K = ln 3.
        (Confidence.ENTROPY, [0.5, 0.25, 0.25], 1 - 1.5 * math.log(2) / math.log(3)),
        # Two classes of four share all: H = ln 2, which is half of ln 4.
        (Confidence.ENTROPY, [0.5, 0.0, 0.5, 0.0], 0.5),
        (Confidence.MAX_PROB, [0.75, 0.25], 0.75),
        (Confidence.MARGIN, [0.25, 0.75], 0.5),
        # H2(1/4) = 2 - 0.75 log2 3 bits.
        (Confidence.ENTROPY, [0.75, 0.25], 1 - (2 - 0.75 * math.log2(3))),
        (Confidence.MARGIN, [0.4, 0.4, 0.2], 0.0),
    ],
)
def test_hand_worked(function: Confidence, row: list[float], expected: float) -> None:
    assert rate(function, row)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize(("function", "expected"), [(Confidence.MARGIN, 0.0), (Confidence.ENTROPY, 0.0)])
def test_uniform_is_not_sure_at_all(function: Confidence, expected: float, classes: int) -> None:
    assert rate(function, [1 / classes] * classes)[0] == pytest.approx(expected, abs=1e-5)


def test_max_prob_of_uniform_is_one_over_k() -> None:
    assert rate(Confidence.MAX_PROB, [0.25] * 4)[0] == np.float32(0.25)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_one_hot_is_wholly_sure(function: Confidence, classes: int) -> None:
    row = [0.0] * classes
    row[classes // 2] = 1.0
    assert rate(function, row)[0] == 1.0


@pytest.mark.parametrize("function", ALL)
def test_one_class_is_always_sure_and_nan_stays_nan(function: Confidence) -> None:
    rated_B = rate(function, [1.0], [float("nan")])
    assert rated_B[0] == 1.0
    assert np.isnan(rated_B[1])
    assert rated_B.dtype == np.float32


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_nan_anywhere_gives_nan_for_its_row_alone(function: Confidence, position: int) -> None:
    bad = [0.5, 0.3, 0.2]
    bad[position] = float("nan")
    rated_B = rate(function, [1.0, 0.0, 0.0], bad, [1.0, 0.0, 0.0])
    assert np.isnan(rated_B).tolist() == [False, True, False]
    assert rated_B[[0, 2]].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("function", ALL)
def test_rounding_never_leaves_the_unit_interval(function: Confidence) -> None:
    assert rate(function, [1.0000002, 0.0])[0] == 1.0
    assert rate(function, [0.1] * 10)[0] >= 0.0


@pytest.mark.parametrize("function", ALL)
def test_no_rows(function: Confidence) -> None:
    rated_B = confidence(function, np.empty((0, 3), dtype=np.float32))
    assert rated_B.shape == (0,)
    assert rated_B.dtype == np.float32


@pytest.mark.parametrize("function", ALL)
def test_argument_is_not_changed(function: Confidence) -> None:
    probabilities_BK = np.array([[0.5, 0.3, 0.2]], dtype=np.float32)
    confidence(function, probabilities_BK)
    assert probabilities_BK.tolist() == np.array([[0.5, 0.3, 0.2]], dtype=np.float32).tolist()
