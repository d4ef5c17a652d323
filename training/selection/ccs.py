"""Coverage-centric core-sets: drop the very hardest images, then sample evenly over the score's range.

Source: Zheng et al., "Coverage-centric Coreset Selection for High Pruning Rates" (ICLR 2023, arXiv 2210.15809),
algorithm 1. It mends what hard-example selection loses when few images are kept.
"""
# Shapes: N images of the pool, R images of the rest, M strata.

import numpy as np

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError
from training.selection.ranking import rank


def sample_strata(
    scores_N: FloatArray, size: int, rng: np.random.Generator, *, hard_share: float, num_strata: int
) -> IntArray:
    """Choose a subset that covers easy and hard images alike.

    Args:
        scores_N: float32 [N], higher is harder; infinite ones count as much as the largest finite one, so that a few
            of them don't stretch the range.
        size: images to choose.
        rng: draws them.
        hard_share: β, share of the pool that is dropped as too hard; ties at the cut are drawn.
        num_strata: bins of equal width over the rest's range of scores.

    Returns:
        int64 [size], different rows, in an order of chance.

    Raises:
        SelectionError: more is asked for than is left.
    """
    check_size(size, len(scores_N), hard_share)
    rest_R = rank(scores_N, rng)[_num_dropped(len(scores_N), hard_share) :]
    strata_R = _strata(scores_N[rest_R], num_strata)
    members = [rest_R[strata_R == stratum] for stratum in range(num_strata)]
    shares = deal(np.array([len(rows) for rows in members]), size)
    # The rest is ranked, so a stratum must be drawn from, not cut.
    chosen = [rng.permutation(rows)[:share] for rows, share in zip(members, shares, strict=True)]
    return rng.permutation(np.concatenate(chosen))


def check_size(size: int, num_images: int, hard_share: float) -> None:
    """Refuse to choose more than is left; needs no scores, and so no proxy.

    Raises:
        SelectionError: it is more.
    """
    num_left = num_images - _num_dropped(num_images, hard_share)
    if not 0 <= size <= num_left:
        raise SelectionError(
            f"ccs: size: got {size}; must be in 0..{num_left}, "
            f"what a hard_share of {hard_share:g} leaves of {num_images}"
        )


def _num_dropped(num_images: int, hard_share: float) -> int:
    # The small addend keeps a product that is whole from being rounded down by its representation.
    return int(hard_share * num_images + 1e-9)


def deal(sizes_M: IntArray, size: int) -> IntArray:
    """Deal a number of images out to strata: to the smallest first, an equal part of what is left to each in turn.

    Args:
        sizes_M: int64 [M], images in each stratum.
        size: images to choose, at most the sum.

    Returns:
        int64 [M], images to draw of each stratum, which sum to ``size``.
    """
    shares_M = np.zeros_like(sizes_M)
    left = size
    for turn, stratum in enumerate(np.argsort(sizes_M, kind="stable")):
        shares_M[stratum] = min(int(sizes_M[stratum]), left // (len(sizes_M) - turn))
        left -= int(shares_M[stratum])
    return shares_M


def _strata(scores_R: FloatArray, num_strata: int) -> IntArray:
    """Give each score's bin, int64 [R] in 0..M-1; equal scores all lie in bin 0."""
    if len(scores_R) == 0:
        return np.zeros(0, dtype=np.int64)
    is_finite_R = np.isfinite(scores_R)
    top = scores_R[is_finite_R].max(initial=-np.inf)
    bounded_R = np.where(is_finite_R, scores_R, top if np.isfinite(top) else 0).astype(np.float64)
    low, high = bounded_R.min(), bounded_R.max()
    if low == high:
        return np.zeros(len(scores_R), dtype=np.int64)
    places_R: IntArray = ((bounded_R - low) / (high - low) * num_strata).astype(np.int64)
    return np.minimum(places_R, num_strata - 1)
