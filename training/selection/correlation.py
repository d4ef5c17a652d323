"""How alike models rank the same images: what makes a proxy stand in for a target."""
# Shapes: M models, N images.

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cascade_serve.core.arrays import Float64Array, FloatArray
from training.errors import SelectionError


@dataclass(frozen=True, kw_only=True, slots=True)
class RankCorrelation:
    """Spearman's rank correlation between the scores of all pairs of models.

    Attributes:
        score: what the models scored by.
        num_images: N.
        names: of the M models.
        matrix: M rows of M correlations in [-1, 1], symmetric; None in the row and column of a model whose scores are
            all the same, which has no ranking.
    """

    score: str
    num_images: int
    names: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]


def correlate_ranks(score: str, scores: Mapping[str, FloatArray]) -> RankCorrelation:
    """Compare how models rank the same images (Coleman et al., arXiv 1906.11829, section 3, does it for its proxies).

    Args:
        score: what the models scored by.
        scores: model → float32 [N], all of the same images in the same order. Infinite ones, such as forgetting events
            of what was never learned, rank above all others; equal ones share their mean rank.

    Raises:
        SelectionError: there are no models, fewer than two images, different numbers of them, or a score is NaN.
    """
    sizes = sorted({len(scores_N) for scores_N in scores.values()})
    if len(sizes) != 1 or sizes[0] < 2:
        raise SelectionError(f"scores: got {sizes} images of {len(scores)} models; must be one number, at least 2")
    broken = [name for name, scores_N in scores.items() if np.isnan(scores_N).any()]
    if broken:
        raise SelectionError(f"scores: of {', '.join(broken)}: some are NaN; did the model diverge?")
    ranks_MN = np.stack([stats.rankdata(scores_N, method="average") for scores_N in scores.values()])
    return RankCorrelation(
        score=score, num_images=sizes[0], names=tuple(scores), matrix=_correlations(ranks_MN.astype(np.float64))
    )


def _correlations(ranks_MN: Float64Array) -> tuple[tuple[float | None, ...], ...]:
    """Give Pearson's correlation of the ranks, which with mean ranks for ties is Spearman's."""
    centred_MN = ranks_MN - ranks_MN.mean(axis=1, keepdims=True)
    norms_M = np.sqrt((centred_MN**2).sum(axis=1))
    is_ranking_M = norms_M > 0
    units_MN = centred_MN / np.where(is_ranking_M, norms_M, 1)[:, None]
    matrix_MM = np.clip(units_MN @ units_MN.T, -1, 1)
    return tuple(
        tuple(float(value) if is_here and is_there else None for value, is_there in zip(row, is_ranking_M, strict=True))
        for row, is_here in zip(matrix_MM, is_ranking_M, strict=True)
    )


def draw_correlation(correlation: RankCorrelation) -> Figure:
    """Draw the matrix as a heat map with its numbers."""
    models = len(correlation.names)
    side = 2.2 + 0.62 * models
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    values_MM = np.array([[np.nan if value is None else value for value in row] for row in correlation.matrix])
    image = axes.imshow(values_MM, vmin=-1, vmax=1, cmap="RdBu")
    for row, values in enumerate(correlation.matrix):
        for column, value in enumerate(values):
            text = "none" if value is None else f"{value:.2f}"
            is_dark = value is not None and abs(value) > 0.6
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if is_dark else "black")
    axes.set_xticks(range(models), correlation.names, rotation=45, ha="right", fontsize=9)
    axes.set_yticks(range(models), correlation.names, fontsize=9)
    axes.set_title(f"{correlation.score}, {correlation.num_images:,} images", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.8, label="Spearman's rank correlation")
    return figure
