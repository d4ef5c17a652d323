"""How sure a prediction is: the confidence functions, all on [0, 1].

Source: Wang et al., "Wisdom of Committees" (ICLR 2022, arXiv 2012.01988), section 4, compares them.
"""
# Shapes: B rows, K classes.

from enum import StrEnum
from typing import assert_never

import numpy as np

from cascade_serve.core.arrays import FloatArray

_ZERO, _ONE = np.float32(0), np.float32(1)


class Confidence(StrEnum):
    """Which function of the class probabilities says how sure they are."""

    MAX_PROB = "max_prob"
    """The largest probability."""
    MARGIN = "margin"
    """The largest probability minus the second largest."""
    ENTROPY = "entropy"
    """1 - H / ln K: 1 for a one-hot prediction, 0 for a uniform one."""


def confidence(function: Confidence, probabilities_BK: FloatArray) -> FloatArray:
    """Rate each prediction.

    Args:
        function: which rule.
        probabilities_BK: float32 [B, K], rows summing to 1. A row with a NaN gives NaN.

    Returns:
        float32 [B] in [0, 1].
    """
    if probabilities_BK.shape[1] == 1:
        return np.where(np.isnan(probabilities_BK[:, 0]), np.nan, 1.0).astype(np.float32)
    match function:
        case Confidence.MAX_PROB:
            # A largest probability is never negative, so one bound is enough.
            largest_B: FloatArray = np.minimum(np.maximum.reduce(probabilities_BK, axis=1), _ONE)
            return largest_B
        case Confidence.MARGIN:
            rated_B = _margin(probabilities_BK)
        case Confidence.ENTROPY:
            rated_B = _negentropy(probabilities_BK)
        case _:
            assert_never(function)
    # As np.clip, NaN included, at a fifth of its time on a few rows.
    clipped_B: FloatArray = np.minimum(np.maximum(rated_B, _ZERO), _ONE)
    return clipped_B


def _margin(probabilities_BK: FloatArray) -> FloatArray:
    top2_B2 = np.partition(probabilities_BK, -2, axis=1)[:, -2:]
    margin_B: FloatArray = top2_B2[:, 1] - top2_B2[:, 0]
    return margin_B


def _negentropy(probabilities_BK: FloatArray) -> FloatArray:
    # One memory layout, so that sums over a row round the same way whatever array it comes in.
    probabilities_BK = np.ascontiguousarray(probabilities_BK)
    # 0 log 0 = 0: the floor keeps the logarithm finite and its product vanishing; NaN passes through.
    logs_BK = np.log(np.maximum(probabilities_BK, np.finfo(np.float32).tiny))
    entropy_B = -(probabilities_BK * logs_BK).sum(axis=1)
    negentropy_B: FloatArray = np.float32(1) - entropy_B / np.float32(np.log(probabilities_BK.shape[1]))
    return negentropy_B
