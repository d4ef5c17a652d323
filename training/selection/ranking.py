"""From scores to an order, with ties left to chance."""
# Shapes: N images of the pool, K classes.

import numpy as np

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError


def rank(scores_N: FloatArray, rng: np.random.Generator) -> IntArray:
    """Order the pool, highest score first.

    Args:
        scores_N: float32 [N], higher is kept first; may be infinite.
        rng: breaks ties; the index never does, because data sets come sorted by class or by difficulty.

    Returns:
        int64 [N], all rows.

    Raises:
        SelectionError: a score is NaN.
    """
    num_broken = int(np.isnan(scores_N).sum())
    if num_broken:
        raise SelectionError(f"scores: {num_broken} of {len(scores_N)} are NaN; did the proxy diverge?")
    shuffled_N = rng.permutation(len(scores_N))
    return shuffled_N[np.argsort(-scores_N[shuffled_N], kind="stable")]


def subset_size(num_images: int, fraction: float) -> int:
    """Give the images in a fraction of a data set: the nearest whole number, halves up, at least 1.

    Raises:
        SelectionError: there are no images.
    """
    if num_images < 1:
        raise SelectionError(f"images: got {num_images}; must be at least 1")
    return max(1, int(fraction * num_images + 0.5))


def class_quotas(counts_K: IntArray, size: int, rng: np.random.Generator) -> IntArray:
    """Split a number of images over classes in the proportion of the classes' own sizes.

    Each class gets its proportion rounded down; what is left goes to the largest remainders, ties drawn.

    Args:
        counts_K: int64 [K], images of each class.
        size: images to choose, at most the sum.
        rng: breaks ties.

    Returns:
        int64 [K], which sum to ``size``, none above its class's count.
    """
    # Whole numbers throughout: a share in floating point may round a full class one short.
    quotas_K, remainders_K = np.divmod(counts_K * size, max(1, int(counts_K.sum())))
    left = size - int(quotas_K.sum())
    quotas_K[rank(remainders_K.astype(np.float32), rng)[:left]] += 1
    return quotas_K
