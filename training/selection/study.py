"""What a selection was worth: accuracy against size, and the proxy's speed-up where its choice is as good."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from training.errors import SelectionError

# Okabe and Ito's palette, which stays apart for the colour-blind; markers tell the arms apart in grey as well.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_CONTROL_COLOR = "#777777"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One arm at one size, over seeds.

    Attributes:
        subset_size: images that the target was trained on.
        accuracies: of the target on held-out images, in [0, 1], one a seed.
        selection_s: wall seconds of the selection up to this size, one a seed; empty where not measured.
    """

    subset_size: int
    accuracies: tuple[float, ...]
    selection_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.subset_size < 1:
            raise ValueError(f"subset_size: got {self.subset_size}; must be at least 1")
        if not self.accuracies or not all(0 <= accuracy <= 1 for accuracy in self.accuracies):
            raise ValueError(f"accuracies: got {self.accuracies}; must be at least one, all in 0..1")
        if not all(0 <= seconds < math.inf for seconds in self.selection_s):
            raise ValueError(f"selection_s: got {self.selection_s}; must be at least 0 and finite")

    @property
    def mean(self) -> float:
        """Mean accuracy over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Standard deviation of the accuracy over the seeds (n - 1); None of a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveArm:
    """One way of choosing, at several sizes.

    Attributes:
        name: such as "forgetting_events by resnet20".
        points: by rising size.
        is_control: drawn aside; ``random`` and ``ccs`` belong into every study.
    """

    name: str
    points: tuple[CurvePoint, ...]
    is_control: bool = False

    def __post_init__(self) -> None:
        sizes = [point.subset_size for point in self.points]
        if not sizes or sizes != sorted(set(sizes)):
            raise ValueError(f"points: got sizes {sizes}; must be at least one, rising")


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionStudy:
    """Accuracy of a target against the number of images that it was trained on, by several ways of choosing them.

    Attributes:
        title: data set, target, and whether it is trained for the same epochs or the same steps.
        num_images: all that could be chosen.
        arms: ways of choosing.
        full: the target on everything; None where not trained.
    """

    title: str
    num_images: int
    arms: tuple[CurveArm, ...]
    full: CurvePoint | None = None

    def arm(self, name: str) -> CurveArm:
        """Look up an arm.

        Raises:
            SelectionError: there is none of that name.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise SelectionError(f"arm: got {name!r}; must be one of {', '.join(arm.name for arm in self.arms)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedUp:
    """How much faster the proxy chose than the target as its own proxy.

    Attributes:
        subset_size: images chosen.
        ratio: mean selection seconds by the target over those by the proxy.
        error_difference: mean error of the target on the proxy's choice, less that on its own.
        tolerance: standard deviation, over seeds, of the error on the target's own choice; None of a single seed.
        counts: whether the speed-up may be claimed.
    """

    subset_size: int
    ratio: float
    error_difference: float
    tolerance: float | None
    counts: bool


def compare_selection(proxy: CurvePoint, target: CurvePoint) -> SpeedUp:
    """Compare a proxy's choice with the target's own, at one size.

    The speed-up counts only where the mean error on the proxy's choice is at most one standard deviation above the mean
    error on the target's own (Coleman et al., arXiv 1906.11829, table 1); of a single seed there is none, and nothing
    counts.

    Args:
        proxy: the target trained on the proxy's choice.
        target: the target trained on its own choice, over seeds.

    Raises:
        SelectionError: sizes differ, or the selection's seconds are absent or 0.
    """
    if proxy.subset_size != target.subset_size:
        raise SelectionError(f"subset_size: got {proxy.subset_size} and {target.subset_size}; must be the same")
    for name, point in (("proxy", proxy), ("target", target)):
        if not point.selection_s or statistics.fmean(point.selection_s) <= 0:
            raise SelectionError(f"{name}: selection_s: got {point.selection_s}; must be measured, above 0")
    # Of accuracies in place of errors: the difference turns its sign, the deviation is the same.
    difference, tolerance = target.mean - proxy.mean, target.std
    return SpeedUp(
        subset_size=proxy.subset_size,
        ratio=statistics.fmean(target.selection_s) / statistics.fmean(proxy.selection_s),
        error_difference=difference,
        tolerance=tolerance,
        # Rounding must not decide where the difference is just the deviation.
        counts=tolerance is not None and (difference <= tolerance or math.isclose(difference, tolerance)),
    )


def compare_arms(study: SelectionStudy, *, proxy: str, target: str) -> tuple[SpeedUp, ...]:
    """Compare a proxy's arm with the target's own at every size that both have.

    Args:
        study: that holds them.
        proxy, target: names of the arms.

    Raises:
        SelectionError: an arm is not there, or its selection was not timed.
    """
    own = {point.subset_size: point for point in study.arm(target).points}
    return tuple(
        compare_selection(point, own[point.subset_size])
        for point in study.arm(proxy).points
        if point.subset_size in own
    )


def draw_study(study: SelectionStudy) -> Figure:
    """Draw accuracy over subset size, an arm a line with one standard deviation either way; controls are grey."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    styles = _styles(study.arms)
    for arm in study.arms:
        axes.errorbar(
            [point.subset_size for point in arm.points],
            [100 * point.mean for point in arm.points],
            yerr=[100 * (point.std or 0) for point in arm.points],
            label=arm.name,
            **styles[arm.name],
        )
    if study.full is not None:
        label = f"all {study.full.subset_size:,}"
        axes.axhline(100 * study.full.mean, color="black", linewidth=1, linestyle=":", label=label)
        if study.full.std is not None:
            low, high = study.full.mean - study.full.std, study.full.mean + study.full.std
            axes.axhspan(100 * low, 100 * high, color="black", alpha=0.07, linewidth=0)
    axes.set_xlabel(f"images of {study.num_images:,} that the target is trained on")
    axes.set_ylabel(f"accuracy, % ({_tell_seeds(study.arms)})")
    axes.set_title(study.title, fontsize=10)
    axes.grid(visible=True, alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _tell_seeds(arms: Sequence[CurveArm]) -> str:
    counts = {len(point.accuracies) for arm in arms for point in arm.points}
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "1 seed"
    return f"mean ± std of {most if fewest == most else f'{fewest} to {most}'} seeds"


def _styles(arms: Sequence[CurveArm]) -> Mapping[str, dict[str, Any]]:
    """Give each arm its colour and marker; controls share a grey and differ in the marker."""
    styles: dict[str, dict[str, Any]] = {}
    for control in (False, True):
        for place, arm in enumerate(arm for arm in arms if arm.is_control is control):
            color = _CONTROL_COLOR if control else _COLORS[place % len(_COLORS)]
            marker = _MARKERS[place % len(_MARKERS)]
            # Where the colours run out they begin again, dash-dotted.
            line = "--" if control else ("-", "-.")[place // len(_COLORS) % 2]
            styles[arm.name] = {
                "color": color, "marker": marker, "linestyle": line, "markersize": 5, "capsize": 3, "linewidth": 1.4,
            }  # fmt: skip
    return styles
