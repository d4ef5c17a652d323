"""Pictures of a selection: scores of the kept and the dropped, classes, and rounds of active learning."""
# Shapes: N images of train, K classes, E edges of bins.

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cascade_serve.core.arrays import BoolArray, Float64Array, FloatArray, IntArray
from training.report.pictures import BLUE, GREEN, GREY, ORANGE, Picture, PictureName, add_legend, new_axes, shorten
from training.report.quantities import duration, percent
from training.selection.subset import Subset

_NUM_BINS = 40
_MANY_CLASSES = 40
"""From here on, classes are drawn as a line from the least to the most kept, without names."""


def draw_scores(scores_N: FloatArray, is_kept_N: BoolArray, subset: Subset) -> Picture:
    """Draw how the score is spread, over the kept and the dropped.

    Args:
        scores_N: float32 [N], higher is kept first; infinite ones (never learned) get a bar of their own.
        is_kept_N: bool [N].
        subset: that was kept.
    """
    figure, axes = new_axes()
    is_infinite_N = np.isinf(scores_N)
    edges_E = _edges(scores_N[~is_infinite_N])
    width = edges_E[1] - edges_E[0]
    never = float(edges_E[-1] + 1.5 * width)
    kept, dropped = (
        np.append(np.histogram(scores_N[is_in_N & ~is_infinite_N], bins=edges_E)[0], (is_in_N & is_infinite_N).sum())
        for is_in_N in (is_kept_N, ~is_kept_N)
    )
    lefts = np.append(edges_E[:-1], never - width / 2)
    axes.bar(lefts, kept, width, align="edge", color=BLUE, label="kept")
    axes.bar(lefts, dropped, width, bottom=kept, align="edge", color=ORANGE, hatch="///", edgecolor="white",
             linewidth=0, label="dropped")  # fmt: skip
    axes.set_ylim(0, 1.08 * (kept + dropped).max())
    _label_scores(axes, edges_E, never if is_infinite_N.any() else None)
    axes.set_xlabel(f"{subset.score} of the proxy (higher: wanted more)")
    axes.set_ylabel("images")
    add_legend(figure)
    infinite = " Infinite is what the proxy never had right." if is_infinite_N.any() else ""
    return Picture(
        name=PictureName.SELECTION_SCORES,
        figure=figure,
        caption=f"The proxy's score of every training image, and what was kept by {subset.score}.{infinite}",
        text=(
            f"Histogram of {subset.score} over {len(scores_N):,} images, of which {int(is_kept_N.sum()):,} were kept"
            f" and {int((~is_kept_N).sum()):,} dropped."
        ),
    )


def _edges(finite: FloatArray) -> Float64Array:
    """Give the edges of bins for finite scores, all as wide: one a value where they are few whole numbers."""
    if not len(finite):
        return np.array([-0.5, 0.5])
    low, high = float(finite.min()), float(finite.max())
    if high - low < _NUM_BINS and bool((finite == np.round(finite)).all()):
        return np.arange(low - 0.5, high + 1, 1.0)
    return np.linspace(low, high, _NUM_BINS + 1)


def _label_scores(axes: Axes, edges_E: Float64Array, never: float | None) -> None:
    """Write the finite scores below their bins, and a word below those of images that were never learned."""
    if never is None:
        return
    locator = MaxNLocator(6, integer=bool(np.ptp(edges_E) == len(edges_E) - 1))
    places = [place for place in locator.tick_values(edges_E[0], edges_E[-1]) if edges_E[0] <= place <= edges_E[-1]]
    axes.set_xticks([*places, never], [*(f"{place:g}" for place in places), "infinite"])
    axes.set_xlim(edges_E[0] - 0.3, never + 0.7 * (edges_E[1] - edges_E[0]))


def draw_classes(classes: tuple[str, ...], all_K: IntArray, kept_K: IntArray) -> Picture:
    """Draw which share of each class was kept, beside the share of the whole."""
    shares_K = 100 * kept_K / np.maximum(all_K, 1)
    overall = 100 * kept_K.sum() / all_K.sum()
    is_many = len(classes) > _MANY_CLASSES
    figure, axes = new_axes((5.2, 3.5 if is_many else 1.2 + 0.24 * len(classes)))
    line: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1.2, "label": f"of all {overall:.1f} %"}
    if is_many:
        axes.plot(np.arange(1, len(classes) + 1), np.sort(shares_K), color=BLUE, marker=".", markersize=3)
        axes.axhline(overall, **line)
        axes.set_xlabel("classes, from the least kept to the most")
        axes.set_ylabel("kept of the class, %")
    else:
        axes.barh(range(len(classes)), shares_K, color=BLUE, height=0.7)
        axes.axvline(overall, **line)
        axes.set_yticks(range(len(classes)), [shorten(name) for name in classes])
        axes.invert_yaxis()
        axes.set_xlabel("kept of the class, %")
    add_legend(figure)
    least, most = int(shares_K.argmin()), int(shares_K.argmax())
    return Picture(
        name=PictureName.SELECTION_CLASSES,
        figure=figure,
        caption="Share of each class that was kept.",
        text=(
            f"Of all images {overall:.1f} % were kept: least of {classes[least]}, {percent(shares_K[least] / 100)};"
            f" most of {classes[most]}, {percent(shares_K[most] / 100)}."
        ),
    )


def draw_rounds(rounds: list[Subset]) -> Picture:
    """Draw the time of selection over the images labelled, stacked by phase, for active learning."""
    figure, axes = new_axes()
    sizes = [len(subset) for subset in rounds]
    phases = {
        "training the proxy": [subset.seconds.training.wall_s for subset in rounds],
        "scoring": [subset.seconds.scoring.wall_s for subset in rounds],
        "ranking": [subset.seconds.ranking.wall_s for subset in rounds],
    }
    axes.stackplot(sizes, *phases.values(), labels=list(phases), colors=[BLUE, ORANGE, GREEN], alpha=0.85)
    axes.set_xlabel("images labelled")
    axes.set_ylabel("time of selection so far, s")
    axes.set_xlim(sizes[0], max(sizes[-1], sizes[0] + 1))
    axes.set_ylim(bottom=0)
    add_legend(figure)
    return Picture(
        name=PictureName.SELECTION_ROUNDS,
        figure=figure,
        caption="Time of selection, on the wall, summed over the rounds.",
        text=(
            f"Time of selection from {sizes[0]:,} to {sizes[-1]:,} labelled images: in the end"
            f" {duration(rounds[-1].seconds.total.wall_s)}."
        ),
    )
