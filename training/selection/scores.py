"""Label-free scores: how unsure a proxy is of each image, read off its class probabilities.

Source: Coleman et al., "Selection via Proxy" (ICLR 2020, arXiv 1906.11829), section 2. All scores here and elsewhere
are turned so that **higher is kept first**; where the paper keeps the lowest of a quantity, the score is 1 minus it.
"""
# Shapes: N images of the pool, K classes.

import numpy as np

from cascade_serve.core.arrays import FloatArray


def least_confidence(probabilities_NK: FloatArray) -> FloatArray:
    """Score 1 - max p: the less likely the best class, the higher.

    Args:
        probabilities_NK: float32 [N, K], rows summing to 1, as a softmax gives them.

    Returns:
        float32 [N] in [0, 1 - 1/K]. It is the sum of the other classes' probabilities, which tells sure predictions
        apart where 1 - max p in float32 would be 0 for all of them.
    """
    unsure_N: FloatArray = _other_classes(probabilities_NK).sum(axis=1)
    return unsure_N


def entropy(probabilities_NK: FloatArray) -> FloatArray:
    """Score -Σ p ln p, with 0 ln 0 = 0.

    Args:
        probabilities_NK: float32 [N, K], rows summing to 1.

    Returns:
        float32 [N] in nats, in [0, ln K].
    """
    # The floor keeps the logarithm finite, and its product with a p of 0 vanishes; NaN passes through.
    floor = np.finfo(np.float32).tiny
    entropy_N: FloatArray = -(probabilities_NK * np.log(np.maximum(probabilities_NK, floor))).sum(axis=1)
    return np.maximum(entropy_N, np.float32(0))


def margin(probabilities_NK: FloatArray) -> FloatArray:
    """Score 1 - (p₁ - p₂): the closer the second-best class comes to the best, the higher.

    Args:
        probabilities_NK: float32 [N, K], rows summing to 1.

    Returns:
        float32 [N] in [0, 1], summed like :func:`least_confidence`; of a single class all 0.
    """
    others_NK = _other_classes(probabilities_NK)
    close_N: FloatArray = others_NK.sum(axis=1) + others_NK.max(axis=1)
    return close_N


def _other_classes(probabilities_NK: FloatArray) -> FloatArray:
    """Copy the probabilities with the best class's set to 0; rows with a NaN keep one."""
    others_NK = probabilities_NK.astype(np.float32)
    best_N1 = np.argmax(probabilities_NK, axis=1, keepdims=True)
    best_p_N1 = np.take_along_axis(probabilities_NK, best_N1, axis=1)
    np.put_along_axis(others_NK, best_N1, np.where(np.isnan(best_p_N1), np.nan, 0), axis=1)
    return others_NK
