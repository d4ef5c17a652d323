"""The report's pictures, drawn on matplotlib figures of their own: no display is needed and no global state touched."""
# Shapes: N rows, K classes, M bins.

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox, BboxBase

from cascade_serve.core.combine import is_usable, softmax
from cascade_serve.core.cost import Cost, format_flops, format_seconds
from cascade_serve.core.plan import Policy
from cascade_serve.planner.calibration import NUM_BINS, Reliability, reliability
from cascade_serve.planner.committee import Committee

# Okabe and Ito's palette, which stays apart for the colour-blind; shapes tell the kinds apart in grey as well.
_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PURPLE, _GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999",
)  # fmt: skip
_STYLES: dict[str, dict[str, Any]] = {
    "ensemble, all members run": {"marker": "^", "s": 26, "c": _ORANGE, "zorder": 2},
    "cascade, chosen on half A": {"marker": "o", "s": 16, "c": _SKY, "zorder": 3},
    "single member": {"marker": "s", "s": 42, "c": _BLACK, "zorder": 4},
    "reference": {"marker": "s", "s": 150, "facecolors": "none", "edgecolors": _RED, "linewidths": 1.8, "zorder": 5},
    "accurate": {"marker": "*", "s": 190, "c": _PURPLE, "zorder": 6},
    "default": {"marker": "D", "s": 75, "c": _GREEN, "zorder": 7},
    "fast": {"marker": "P", "s": 85, "c": _BLUE, "zorder": 6},
}
_MEMBER_COLORS = (_SKY, _ORANGE, _GREEN, _PURPLE, _RED, _BLUE, _GREY)
_HATCHES = ("", "//", "..", "xx")
"""A zoo with more members than colours goes on with these over the same colours."""
FEW_ROWS = 20
"""A bin with fewer rows says little: its accuracy may be off by ten points and more."""
_LABEL_PLACES: tuple[tuple[float, float, Literal["left", "center", "right"]], ...] = (
    (0, -17, "center"), (0, 9, "center"), (9, -4, "left"), (-9, -4, "right"),
    (9, -15, "left"), (-9, -15, "right"), (9, 8, "left"), (-9, 8, "right"),
    (0, -29, "center"), (0, 21, "center"), (0, -41, "center"), (0, 33, "center"),
)  # fmt: skip
"""Offset in points from the dot, best first, and which end of the label is fixed there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A point of the Pareto picture.

    Attributes:
        kind: one of the picture's kinds of points.
        label: written beside it; None for none.
        cost: mean per image: FLOPs, or seconds.
        accuracy: share of right rows.
    """

    kind: str
    label: str | None
    cost: float
    accuracy: float


def draw_pareto(dots: Sequence[Dot], rows: int, cost: Cost = Cost.FLOPS) -> Figure:
    """Draw accuracy over mean cost.

    Args:
        dots: the points.
        rows: that they were measured on.
        cost: what the dots' costs are.
    """
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.add_subplot()
    for kind, style in _STYLES.items():
        chosen = [dot for dot in dots if dot.kind == kind]
        if chosen:
            axes.scatter([dot.cost for dot in chosen], [100 * dot.accuracy for dot in chosen], label=kind, **style)
    _log_axis(axes, [dot.cost for dot in dots], format_flops if cost is Cost.FLOPS else format_seconds)
    axes.set_xlabel(
        "mean FLOPs per image (two a multiply-add)" if cost is Cost.FLOPS else "mean time per image, by the profiles"
    )
    axes.set_ylabel(f"accuracy, % of {rows:,} rows (half B)")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    figure.draw_without_rendering()
    _label_dots(axes, dots, figure.dpi / 72)
    return figure


def _log_axis(axes: Axes, costs: Sequence[float], write: Callable[[float], str]) -> None:
    """Write costs as 50M, 100M, 200M, ... on a logarithmic axis, with room at its ends."""
    axes.set_xscale("log")
    axes.set_xlim(min(costs) / 1.15, max(costs) * 1.15)
    decades = math.log10(max(costs) / min(costs))
    steps = (1, 2, 5) if decades > 0.7 else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label_dots(axes: Axes, dots: Sequence[Dot], pixels_per_point: float) -> None:
    """Write each label where it covers least of other labels, of dots, and of what lies outside the axes."""
    taken = [_mark(axes, dot, pixels_per_point) for dot in dots]
    for dot in sorted(dots, key=lambda dot: dot.cost):
        if dot.label is None:
            continue
        texts = [
            axes.annotate(
                dot.label, (dot.cost, 100 * dot.accuracy), xytext=(right, up), textcoords="offset points", ha=fixed,
                fontsize=9, zorder=8,
            )
            for right, up, fixed in _LABEL_PLACES
        ]  # fmt: skip
        boxes = [text.get_window_extent() for text in texts]
        covered = [_area(box) - _shared(box, axes.bbox) + sum(_shared(box, other) for other in taken) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        for place, text in enumerate(texts):
            if place != best:
                text.remove()


def _mark(axes: Axes, dot: Dot, pixels_per_point: float) -> Bbox:
    """Give the square, in pixels, that a dot covers."""
    x, y = axes.transData.transform((dot.cost, 100 * dot.accuracy))
    # A marker's size is its area in square points.
    half = math.sqrt(_STYLES[dot.kind]["s"]) / 2 * pixels_per_point
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _area(box: BboxBase) -> float:
    return float(box.width * box.height)


def _shared(box: BboxBase, other: BboxBase) -> float:
    both = Bbox.intersection(box, other)
    return 0.0 if both is None else _area(both)


def draw_reliability(committee: Committee) -> Figure:
    """Draw accuracy over confidence, a panel a member, before and after its temperature.

    Args:
        committee: members over the rows to draw.
    """
    members = len(committee.names)
    columns = min(4, members)
    lines = math.ceil(members / columns)
    figure = Figure(figsize=(3 * columns, 3.7 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for member, axes in enumerate(panels[:members]):
        _draw_member(axes, committee, member)
    for axes in panels[members:]:
        axes.set_visible(False)
    figure.supxlabel(f"confidence (largest probability)\nfaint: bins of fewer than {FEW_ROWS} rows", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    return figure


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
    axes.legend(title=committee.names[member], fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def _draw_bins(axes: Axes, bins: Reliability, marker: str, color: str, label: str) -> None:
    """Draw a line through the bins that say something, and the others as faint dots off the line."""
    is_sound = bins.count_M >= FEW_ROWS
    axes.plot(
        bins.confidence_M[is_sound], bins.accuracy_M[is_sound], marker=marker, markersize=4, color=color,
        linewidth=1.2, label=label,
    )  # fmt: skip
    is_faint = (bins.count_M > 0) & ~is_sound
    axes.plot(
        bins.confidence_M[is_faint], bins.accuracy_M[is_faint], marker=marker, markersize=3, color=color,
        linestyle="none", alpha=0.35,
    )  # fmt: skip


def draw_exits(policies: Sequence[Policy], members: Sequence[str]) -> Figure:
    """Draw where each policy's rows leave, as one bar a policy; a member has the same colour in all of them.

    Args:
        policies: measured ones.
        members: names of all that may be stages.
    """
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(policies)), layout="constrained")
    axes = figure.add_subplot()
    keys: dict[str, Rectangle] = {}
    for line, policy in enumerate(policies):
        left = 0.0
        for stage, share in zip(policy.stages, policy.exit_shares or (), strict=True):
            style = _member_style(members.index(stage.member))
            (keys[stage.member],) = axes.barh(line, 100 * share, left=100 * left, edgecolor="white", **style)
            if share > 0.02:
                _write_share(axes, 100 * (left + share / 2), line, share)
            left += share
    axes.set_yticks(range(len(policies)), [policy.name for policy in policies])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("rows that leave at each stage, from the first to the last, %")
    names = [name for name in members if name in keys]
    figure.legend([keys[name] for name in names], names, loc="outside upper center", ncols=4, fontsize=9, frameon=False)
    return figure


def _member_style(member: int) -> dict[str, Any]:
    colors = len(_MEMBER_COLORS)
    return {"color": _MEMBER_COLORS[member % colors], "hatch": _HATCHES[member // colors % len(_HATCHES)]}


def _write_share(axes: Axes, x: float, y: float, share: float) -> None:
    frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
    axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, bbox=frame)
