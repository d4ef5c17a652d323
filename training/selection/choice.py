"""From what is known of a pool to the images chosen of it."""
# Shapes: N images of the pool, C labelled images, D features, K classes.

from dataclasses import dataclass
from typing import assert_never

import numpy as np

from cascade_serve.core.arrays import FloatArray, IntArray
from training.errors import SelectionError
from training.selection.ccs import sample_strata
from training.selection.k_center import k_center
from training.selection.methods import Ccs, CoreSetMethod, KCenter, LabelFreeScore, LabelUsingScore, RandomChoice
from training.selection.ranking import class_quotas, rank, subset_size


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """What a trained proxy has to say about a pool; only what the method asks for is there.

    Attributes:
        num_images: N.
        scores_N: float32 [N], higher is kept first.
        features_ND: float32 [N, D].
        centres_CD: float32 [C, D], features of what is labelled already; None for a core-set.
    """

    num_images: int
    scores_N: FloatArray | None = None
    features_ND: FloatArray | None = None
    centres_CD: FloatArray | None = None

    def take(self, rows: IntArray) -> "Evidence":
        """Give what is known of some images."""
        return Evidence(
            num_images=len(rows),
            scores_N=None if self.scores_N is None else self.scores_N[rows],
            features_ND=None if self.features_ND is None else self.features_ND[rows],
            centres_CD=self.centres_CD,
        )


def choose(
    method: CoreSetMethod, evidence: Evidence, size: int, rng: np.random.Generator, *, device: str = "cpu"
) -> IntArray:
    """Choose images.

    Args:
        method: by what.
        evidence: what :func:`training.selection.scoring.gather` gave for it.
        size: how many, at most the pool.
        rng: breaks ties, and draws where the method draws.
        device: where distances are computed.

    Returns:
        int64 [size], different rows of the pool, most wanted first; of ``ccs`` and ``random`` in an order of chance.

    Raises:
        SelectionError: the pool, or what the method leaves of it, is smaller; or a score or feature is not a number.
    """
    if not 0 <= size <= evidence.num_images:
        raise SelectionError(f"size: got {size}; must be in 0..{evidence.num_images}, the pool")
    match method:
        case LabelFreeScore() | LabelUsingScore():
            return rank(_scores(evidence), rng)[:size]
        case KCenter():
            return _choose_centers(method, evidence, size, rng, device)
        case Ccs():
            return sample_strata(
                _scores(evidence), size, rng, hard_share=method.hard_share, num_strata=method.num_strata
            )
        case RandomChoice():
            return rng.permutation(evidence.num_images)[:size]
        case _:
            assert_never(method)


def choose_by_class(
    method: CoreSetMethod,
    evidence: Evidence,
    labels_N: IntArray,
    size: int,
    rng: np.random.Generator,
    *,
    device: str = "cpu",
) -> IntArray:
    """Choose the same fraction of each class, each by itself.

    Args:
        method, evidence, size, rng, device: as for :func:`choose`.
        labels_N: int64 [N].

    Returns:
        int64 [size], different rows of the pool; a class's own order is kept, and the classes are interleaved evenly.
    """
    classes_K, counts_K = np.unique(labels_N, return_counts=True)
    rows: list[IntArray] = []
    for label, quota in zip(classes_K, class_quotas(counts_K, size, rng), strict=True):
        rows_n = np.flatnonzero(labels_N == label)
        rows.append(rows_n[choose(method, evidence.take(rows_n), int(quota), rng, device=device)])
    places = np.concatenate([(np.arange(len(rows_n)) + 0.5) / max(1, len(rows_n)) for rows_n in rows])
    return np.concatenate(rows)[rank(-places.astype(np.float32), rng)]


def _scores(evidence: Evidence) -> FloatArray:
    assert evidence.scores_N is not None
    return evidence.scores_N


def _choose_centers(method: KCenter, evidence: Evidence, size: int, rng: np.random.Generator, device: str) -> IntArray:
    features_ND = evidence.features_ND
    assert features_ND is not None
    if evidence.centres_CD is not None:
        return k_center(features_ND, size, rng, centres_CD=evidence.centres_CD, device=device)
    shuffled_N = rng.permutation(len(features_ND))
    start = min(size, subset_size(len(features_ND), method.start_share)) if size else 0
    start_C, rest = shuffled_N[:start], shuffled_N[start:]
    picked = k_center(features_ND[rest], size - start, rng, centres_CD=features_ND[start_C], device=device)
    return np.concatenate([start_C, rest[picked]])
