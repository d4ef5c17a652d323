"""Scores against hand-worked values, and what holds for any probabilities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from cascade_serve.core.arrays import FloatArray
from training.selection.scores import entropy, least_confidence, margin

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]], dtype=np.float32)


def test_least_confidence_by_hand() -> None:
    assert least_confidence(PROBABILITIES) == pytest.approx([0.3, 0.6, 0.0, 0.5], rel=1e-6)


def test_margin_by_hand() -> None:
    # The best less the second-best: 0.5, 0, 1, 0.25.
    assert margin(PROBABILITIES) == pytest.approx([0.5, 1.0, 0.0, 0.75], rel=1e-6)


def test_entropy_by_hand() -> None:
    first = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    second = -(0.8 * math.log(0.4) + 0.2 * math.log(0.2))
    assert entropy(PROBABILITIES) == pytest.approx([first, second, 0.0, 1.5 * math.log(2)], rel=1e-6)
    assert first == pytest.approx(0.80182, abs=1e-5)


@pytest.mark.parametrize("score", [least_confidence, margin])
def test_sure_predictions_are_told_apart(score: object) -> None:
    sure = np.array([[1.0, 1e-9, 1e-12], [1.0, 3e-9, 1e-12]], dtype=np.float32)
    # 1 - max p is 0 for both in float32.
    assert 1 - sure.max(axis=1) == pytest.approx([0, 0])
    assert callable(score)
    low, high = score(sure)
    assert 0 < low < high


@pytest.mark.parametrize("score", [least_confidence, margin, entropy])
def test_nan_stays_nan_and_the_input_as_it_was(score: object) -> None:
    broken = np.array([[0.5, 0.5], [np.nan, np.nan]], dtype=np.float32)
    before = broken.copy()
    assert callable(score)
    assert np.isnan(score(broken)).tolist() == [False, True]
    assert np.array_equal(broken, before, equal_nan=True)


@st.composite
def _probabilities(draw: st.DrawFn) -> FloatArray:
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 12)))
    logits = draw(st_numpy.arrays(np.float64, shape, elements=st.floats(-30, 30)))
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: FloatArray = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


@given(_probabilities())
def test_bounds_and_definitions(probabilities: FloatArray) -> None:
    classes = probabilities.shape[1]
    ordered = np.sort(probabilities.astype(np.float64), axis=1)
    second = ordered[:, -2] if classes > 1 else np.zeros(len(ordered))
    assert least_confidence(probabilities) == pytest.approx(1 - ordered[:, -1], abs=1e-5)
    assert margin(probabilities) == pytest.approx(1 - (ordered[:, -1] - second), abs=1e-5)
    entropies = entropy(probabilities)
    assert (entropies >= 0).all()
    assert (entropies <= math.log(classes) + 1e-5).all()
    assert all(
        scores.dtype == np.float32 for scores in (least_confidence(probabilities), margin(probabilities), entropies)
    )
