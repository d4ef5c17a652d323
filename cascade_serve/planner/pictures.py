"""The report's pictures, drawn on matplotlib figures of their own: no display is needed and no global state touched."""
# Shapes: N rows, K classes, M bins.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from cascade_serve.core.combine import is_usable, softmax
from cascade_serve.core.cost import format_flops
from cascade_serve.core.plan import Policy
from cascade_serve.planner.calibration import NUM_BINS, Reliability, reliability
from cascade_serve.planner.committee import Committee

# Okabe and Ito's palette, which stays apart for the colour-blind; shapes tell the kinds apart in grey as well.
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PURPLE, _GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999",
)  # fmt: skip
_STYLES: dict[str, dict[str, Any]] = {
    "ensemble, all members run": {"marker": "^", "s": 26, "c": _ORANGE, "zorder": 2},
    "cascade on half A's front": {"marker": "o", "s": 16, "c": _SKY, "zorder": 3},
    "single member": {"marker": "s", "s": 42, "c": _BLACK, "zorder": 4},
    "reference": {"marker": "s", "s": 150, "facecolors": "none", "edgecolors": _RED, "linewidths": 1.8, "zorder": 5},
    "accurate": {"marker": "*", "s": 190, "c": _PURPLE, "zorder": 6},
    "default": {"marker": "D", "s": 75, "c": _GREEN, "zorder": 7},
    "fast": {"marker": "P", "s": 85, "c": _BLUE, "zorder": 6},
}
_DPI = 150
_MARK = 8.0
"""Half the side of the square that a labelled point covers, in pixels at matplotlib's own 100 per inch."""
_LABEL_PLACES = ((9, -13), (9, 7), (-9, -13), (-9, 7), (9, -26), (-9, -26), (9, 19), (-9, 19), (9, -38), (-9, -38))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A point of the Pareto picture.

    Attributes:
        kind: one of the picture's kinds of points.
        label: written beside it; None for none.
        flops: mean per image.
        accuracy: share of right rows.
    """

    kind: str
    label: str | None
    flops: float
    accuracy: float


def draw_pareto(path: Path, dots: Sequence[Dot], rows: int) -> None:
    """Draw accuracy over mean FLOPs.

    Args:
        path: PNG to write.
        dots: the points.
        rows: that they were measured on.
    """
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.add_subplot()
    for kind, style in _STYLES.items():
        chosen = [dot for dot in dots if dot.kind == kind]
        if chosen:
            axes.scatter([dot.flops for dot in chosen], [100 * dot.accuracy for dot in chosen], label=kind, **style)
    _log_axis(axes, [dot.flops for dot in dots])
    axes.set_xlabel("mean FLOPs per image (two a multiply-add)")
    axes.set_ylabel(f"accuracy, % of {rows:,} rows (half B)")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    figure.draw_without_rendering()
    _label_dots(axes, [dot for dot in dots if dot.label])
    figure.savefig(path, dpi=_DPI)


def _log_axis(axes: Axes, flops: Sequence[float]) -> None:
    """Write FLOPs as 50M, 100M, 200M, ... on a logarithmic axis, with room at its ends."""
    axes.set_xscale("log")
    axes.set_xlim(min(flops) / 1.15, max(flops) * 1.15)
    decades = math.log10(max(flops) / min(flops))
    steps = (1, 2, 5) if decades > 0.7 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_flops(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label_dots(axes: Axes, dots: Sequence[Dot]) -> None:
    """Write labels where they touch no other label and no labelled point, as far as there is a place."""
    centres = axes.transData.transform([(dot.flops, 100 * dot.accuracy) for dot in dots])
    taken = [Bbox.from_extents(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in centres]
    for dot in sorted(dots, key=lambda dot: dot.flops):
        for place in _LABEL_PLACES:
            text = axes.annotate(
                dot.label or "",
                (dot.flops, 100 * dot.accuracy),
                xytext=place,
                textcoords="offset points",
                ha="left" if place[0] > 0 else "right",
                fontsize=9,
                zorder=8,
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            if place != _LABEL_PLACES[-1]:
                text.remove()
        taken.append(box)


def draw_reliability(path: Path, committee: Committee) -> None:
    """Draw accuracy over confidence, a panel a member, before and after its temperature.

    Args:
        path: PNG to write.
        committee: members over the rows to draw.
    """
    members = len(committee.names)
    columns = min(4, members)
    lines = math.ceil(members / columns)
    figure = Figure(figsize=(3 * columns, 3.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for member, axes in enumerate(panels[:members]):
        _draw_member(axes, committee, member)
    for axes in panels[members:]:
        axes.set_visible(False)
    figure.supxlabel("confidence (largest probability)")
    figure.supylabel("accuracy")
    figure.savefig(path, dpi=_DPI)


def _draw_member(axes: Axes, committee: Committee, member: int) -> None:
    logits_NK = committee.logits[member]
    usable_N = is_usable(logits_NK)
    finite_NK, labels_N = logits_NK[usable_N], committee.labels_N[usable_N]
    temperature = committee.temperatures[member]
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=":")
    for divisor, marker, color, when in (
        (1.0, "o", _ORANGE, "T = 1"),
        (temperature, "s", _BLUE, f"T = {temperature:.2f}"),
    ):
        bins = reliability(softmax((finite_NK / divisor).astype(finite_NK.dtype)), labels_N, NUM_BINS)
        label = f"{when}: ECE {100 * bins.expected_error:.1f} %"
        _draw_bins(axes, bins, marker, color, label)
    axes.set_title(committee.names[member], fontsize=10)
    axes.legend(fontsize=8, loc="upper left", frameon=False)


def _draw_bins(axes: Axes, bins: Reliability, marker: str, color: str, label: str) -> None:
    known = bins.count_M > 0
    axes.plot(
        bins.confidence_M[known], bins.accuracy_M[known], marker=marker, markersize=4, color=color, linewidth=1.2,
        label=label,
    )  # fmt: skip


def draw_exits(path: Path, policies: Sequence[Policy]) -> None:
    """Draw where each policy's rows leave, as one bar a policy.

    Args:
        path: PNG to write.
        policies: measured ones.
    """
    figure = Figure(figsize=(8, 0.8 + 0.75 * len(policies)), layout="constrained")
    axes = figure.add_subplot()
    colors = (_SKY, _GREEN, _ORANGE, _PURPLE)
    for line, policy in enumerate(policies):
        left = 0.0
        for stage, share in enumerate(policy.exit_shares or ()):
            axes.barh(line, 100 * share, left=100 * left, color=colors[stage], edgecolor="white")
            if share > 0.08:
                text = f"{policy.stages[stage].member}\n{100 * share:.0f} %"
                axes.text(100 * (left + share / 2), line, text, ha="center", va="center", fontsize=8)
            left += share
    axes.set_yticks(range(len(policies)), [policy.name for policy in policies])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("rows that leave at each stage, from the first to the last, %")
    figure.savefig(path, dpi=_DPI)
