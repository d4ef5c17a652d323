"""Greedy k-center: cover the pool, so that no image lies far from a chosen one.

Source: Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach" (ICLR 2018,
arXiv 1708.00489), algorithm 1, on the input of the proxy's last layer (Coleman et al., arXiv 1906.11829, section 2).
"""
# Shapes: N images of the pool, C centres, D features, S images to pick.

import math

import numpy as np
import torch
from torch import Tensor

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError

CHUNK_ROWS = 2048
"""Points and centres whose mutual distances are held at once: 16 MiB of float32."""


def k_center(
    features_ND: FloatArray,
    size: int,
    rng: np.random.Generator,
    *,
    centres_CD: FloatArray | None = None,
    device: str = "cpu",
) -> IntArray:
    """Pick, one after another, the point farthest (Euclidean) from all centres and picks so far.

    Only the running minimum of the distances is kept: memory is the features' and a few vectors of N, and time is
    O(S N D + C N D).

    Args:
        features_ND: float32 [N, D].
        size: S, at most N.
        rng: breaks ties; with no centres it draws the first pick.
        centres_CD: float32 [C, D], what is covered already.
        device: where the distances are computed.

    Returns:
        int64 [S], different rows, in the order picked.

    Raises:
        SelectionError: more points are asked for than there are, or a feature is not finite.
    """
    _check(features_ND, size, centres_CD)
    # Equal distances go to the first place of a shuffled pool, and so to chance.
    order_N = rng.permutation(len(features_ND))
    points_ND = torch.from_numpy(features_ND[order_N]).to(device)
    # By a power of two, which changes no digit: squares of any finite features must neither overflow nor vanish.
    scale = _scale(features_ND, centres_CD)
    points_ND *= scale
    # Distances are differences of squared norms, which round the less the nearer the points lie to the origin.
    mean_D = points_ND.mean(dim=0)
    points_ND -= mean_D
    nearest_N = torch.full((len(points_ND),), torch.inf, device=device)
    if centres_CD is not None and len(centres_CD):
        _cover(nearest_N, points_ND, torch.from_numpy(centres_CD).to(device) * scale - mean_D)
    picked_S: IntArray = order_N[_pick(points_ND, nearest_N, size).cpu().numpy()]
    return picked_S


def _check(features_ND: FloatArray, size: int, centres_CD: FloatArray | None) -> None:
    if not 0 <= size <= len(features_ND):
        raise SelectionError(f"k_center: size: got {size}; must be in 0..{len(features_ND)}, the pool")
    for name, array in (("features", features_ND), ("centres", centres_CD)):
        if array is not None and not np.isfinite(array).all():
            rows = f"{(~np.isfinite(array).all(axis=1)).sum()} of {len(array)} rows"
            raise SelectionError(f"k_center: {name}: {rows} are not finite; did the proxy diverge?")


def _scale(features_ND: FloatArray, centres_CD: FloatArray | None) -> float:
    """Give the power of two that brings the largest number to about 1."""
    arrays = (features_ND,) if centres_CD is None else (features_ND, centres_CD)
    bounds = [bound for array in arrays if array.size for bound in (array.min(), array.max())]
    _, exponent = math.frexp(max((abs(float(bound)) for bound in bounds), default=0.0))
    # What float32 can hold; numbers beyond are so small that they stay far from 1, but no longer vanish.
    return math.ldexp(1.0, min(-exponent, 120))


def _cover(nearest_N: Tensor, points_ND: Tensor, centres_CD: Tensor) -> None:
    """Lower each point's squared distance to that of the nearest centre, in place, chunk by chunk."""
    for nearest_n, points_nD in zip(nearest_N.split(CHUNK_ROWS), points_ND.split(CHUNK_ROWS), strict=True):
        norms_n1 = points_nD.square().sum(dim=1, keepdim=True)
        for centres_cD in centres_CD.split(CHUNK_ROWS):
            squares_nc = torch.addmm(norms_n1, points_nD, centres_cD.T, alpha=-2)
            squares_nc += centres_cD.square().sum(dim=1)
            torch.minimum(nearest_n, squares_nc.amin(dim=1).clamp_(min=0), out=nearest_n)


def _pick(points_ND: Tensor, nearest_N: Tensor, size: int) -> Tensor:
    """Give the rows picked, int64 [S]; ``nearest_N`` is used up. A GPU is not waited for."""
    norms_N = points_ND.square().sum(dim=1)
    picked_S = torch.empty(size, dtype=torch.int64, device=points_ND.device)
    for place in range(size):
        row_1 = nearest_N.argmax(dim=0, keepdim=True)
        picked_S[place : place + 1] = row_1
        squares_N = torch.addmv(norms_N, points_ND, points_ND.index_select(0, row_1)[0], alpha=-2)
        squares_N += norms_N.index_select(0, row_1)
        torch.minimum(nearest_N, squares_N.clamp_(min=0), out=nearest_N)
        nearest_N.index_fill_(0, row_1, -1)
    return picked_S
