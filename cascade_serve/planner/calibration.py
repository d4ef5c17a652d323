"""Calibration rows: temperature scaling, how well calibrated a member is, and the split into halves A and B."""
# Shapes: N rows, K classes, M bins.

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from cascade_serve.core.arrays import FloatArray, IntArray
from cascade_serve.core.combine import is_usable

MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 100.0
NUM_BINS = 15


def fit_temperature(logits_NK: FloatArray, labels_N: IntArray) -> float:
    """Find the temperature that makes a member's softmax most likely.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017, arXiv 1706.04599), section 4.2. The
    negative log-likelihood is convex in 1/T, so it has one valley over log T, which a bounded scalar search finds.

    Args:
        logits_NK: float32 [N, K]; rows that are not finite are left out.
        labels_N: int64 [N] in 0..K-1.

    Returns:
        the temperature, between ``MIN_TEMPERATURE`` and ``MAX_TEMPERATURE``; a member that is always right, or always
        wrong, would have none within any bounds and gets the bound; 1 where no temperature is better than 1 (no
        usable rows, one class, or margins so large that nothing can be told apart).
    """
    usable_N = is_usable(logits_NK)
    shifted_NK = _shift(logits_NK[usable_N])
    if shifted_NK.size == 0:
        return 1.0
    target_N = shifted_NK[np.arange(len(shifted_NK)), labels_N[usable_N]]
    mean_target = float(target_N.mean(dtype=np.float64))
    buffer_NK = np.empty_like(shifted_NK)

    def negative_log_likelihood(log_temperature: float) -> float:
        scale = float(np.exp(-log_temperature))
        np.multiply(shifted_NK, np.float32(scale), out=buffer_NK)
        np.exp(buffer_NK, out=buffer_NK)
        log_sum_N = np.log(buffer_NK.sum(axis=1), dtype=np.float64)
        return float(log_sum_N.mean()) - scale * mean_target

    bounds = (float(np.log(MIN_TEMPERATURE)), float(np.log(MAX_TEMPERATURE)))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    # The search never asks the ends themselves, where members that are always right, or always wrong, have their best.
    best = min((0.0, float(found.x), *bounds), key=negative_log_likelihood)
    return float(np.exp(best))


def _shift(logits_NK: FloatArray) -> FloatArray:
    """Move each row's largest logit to 0, where exponentials can't overflow."""
    if logits_NK.size == 0:
        return logits_NK
    # Halved and scaled, so that neither a difference of two logits nor its quotient by a temperature overflows.
    limit = np.finfo(np.float32).max * np.float32(MIN_TEMPERATURE / 2)
    clipped_NK = np.clip(logits_NK, -limit, limit)
    shifted_NK: FloatArray = clipped_NK - clipped_NK.max(axis=1, keepdims=True)
    return shifted_NK


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Confidence against accuracy, in equal-width bins of the confidence.

    Attributes:
        count_M: int64 [M], rows in each bin.
        confidence_M: float64 [M], mean confidence of the bin's rows; NaN where it has none.
        accuracy_M: float64 [M], share of correct rows; NaN where it has none.
    """

    count_M: IntArray
    confidence_M: NDArray[np.float64]
    accuracy_M: NDArray[np.float64]

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean over rows of the bin's |confidence - accuracy|; NaN without rows."""
        if self.count_M.sum() == 0:
            return float("nan")
        gaps_M = np.nan_to_num(np.abs(self.confidence_M - self.accuracy_M))
        return float((self.count_M * gaps_M).sum() / self.count_M.sum())


def reliability(probabilities_NK: FloatArray, labels_N: IntArray, num_bins: int = NUM_BINS) -> Reliability:
    """Sort rows into bins of their largest probability and compare it with their accuracy.

    Args:
        probabilities_NK: float32 [N, K]; rows that are not finite are left out.
        labels_N: int64 [N] in 0..K-1.
        num_bins: bins (lower, upper] of equal width over [0, 1].

    Returns:
        the bins.
    """
    usable_N = is_usable(probabilities_NK)
    kept_NK, kept_N = probabilities_NK[usable_N], labels_N[usable_N]
    confidence_N = kept_NK.max(axis=1).astype(np.float64)
    correct_N = kept_NK.argmax(axis=1) == kept_N
    bin_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    count_M = np.bincount(bin_N, minlength=num_bins).astype(np.int64)
    divisor_M = np.where(count_M > 0, count_M, np.nan)
    return Reliability(
        count_M=count_M,
        confidence_M=np.bincount(bin_N, weights=confidence_N, minlength=num_bins) / divisor_M,
        accuracy_M=np.bincount(bin_N, weights=correct_N, minlength=num_bins) / divisor_M,
    )


def expected_calibration_error(probabilities_NK: FloatArray, labels_N: IntArray) -> float:
    """Give the expected calibration error (Guo et al. 2017, equation 5), from 0 to 1; NaN without usable rows.

    Args:
        probabilities_NK: float32 [N, K]; rows that are not finite are left out.
        labels_N: int64 [N] in 0..K-1.
    """
    return reliability(probabilities_NK, labels_N).expected_error


def split_halves(labels_N: IntArray, seed: int) -> tuple[IntArray, IntArray]:
    """Split rows into halves A and B, each with the same share of every class.

    Args:
        labels_N: int64 [N].
        seed: of the shuffle; the same labels and seed give the same halves.

    Returns:
        row indices of A and of B, int64, ascending and disjoint; together all rows. Their sizes differ by at most one,
        and so do each class's rows in them.
    """
    shuffled_N = np.random.default_rng(seed).permutation(len(labels_N))
    by_class_N = shuffled_N[np.argsort(labels_N[shuffled_N], kind="stable")]
    # Dealing the classes' rows out in turn keeps both the halves and every class within one row of even.
    return np.sort(by_class_N[0::2]), np.sort(by_class_N[1::2])
