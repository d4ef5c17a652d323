"""The speed-up that counts, by hand, and the curve."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from training.errors import SelectionError
from training.selection.records import read_record, write_record
from training.selection.study import (
    CurveArm,
    CurvePoint,
    SelectionStudy,
    compare_arms,
    compare_selection,
    draw_study,
)

# Errors of 10, 12 and 14 %: mean 12 %, standard deviation 2 points.
TARGET = CurvePoint(subset_size=500, accuracies=(0.90, 0.88, 0.86), selection_s=(100.0, 110.0, 90.0))


@pytest.mark.parametrize(
    ("accuracies", "difference", "counts"),
    [
        ((0.87, 0.87), 0.01, True),
        # Just one standard deviation worse.
        ((0.86, 0.86), 0.02, True),
        ((0.855, 0.855), 0.025, False),
        # Better is no reason to refuse.
        ((0.99, 0.99), -0.11, True),
        ((0.87,), 0.01, True),
    ],
)
def test_a_speed_up_counts_within_one_standard_deviation(
    accuracies: tuple[float, ...], difference: float, counts: bool
) -> None:
    proxy = CurvePoint(subset_size=500, accuracies=accuracies, selection_s=(8.0, 12.0))
    found = compare_selection(proxy, TARGET)
    assert found.ratio == pytest.approx(10)
    assert found.error_difference == pytest.approx(difference)
    assert found.tolerance == pytest.approx(0.02)
    assert found.counts is counts
    assert found.subset_size == 500


def test_of_a_single_seed_nothing_counts() -> None:
    target = replace(TARGET, accuracies=(0.88,))
    found = compare_selection(TARGET, target)
    assert found.tolerance is None
    assert not found.counts


def test_unlike_points_are_refused() -> None:
    with pytest.raises(SelectionError, match=r"^subset_size: got 400 and 500; must be the same$"):
        compare_selection(replace(TARGET, subset_size=400), TARGET)
    for name, proxy, target in (("proxy", (), (1.0,)), ("target", (1.0,), (0.0,))):
        with pytest.raises(SelectionError, match=rf"^{name}: selection_s: got \(.*\); must be measured, above 0$"):
            compare_selection(replace(TARGET, selection_s=proxy), replace(TARGET, selection_s=target))


def test_points_by_hand() -> None:
    assert TARGET.mean == pytest.approx(0.88)
    assert TARGET.std == pytest.approx(0.02)
    assert CurvePoint(subset_size=1, accuracies=(0.5,)).std is None
    with pytest.raises(ValueError, match=r"^accuracies: got \(93\.0,\); must be at least one, all in 0\.\.1$"):
        CurvePoint(subset_size=1, accuracies=(93.0,))
    with pytest.raises(ValueError, match=r"^accuracies: got \(\); must be at least one"):
        CurvePoint(subset_size=1, accuracies=())
    for seconds in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match=rf"^selection_s: got \(3\.0, {seconds}\); must be at least 0 and finite$"):
            CurvePoint(subset_size=1, accuracies=(0.5,), selection_s=(3.0, seconds))
    with pytest.raises(ValueError, match=r"^subset_size: got 0; must be at least 1$"):
        CurvePoint(subset_size=0, accuracies=(0.5,))
    with pytest.raises(ValueError, match=r"^points: got sizes \[500, 500\]; must be at least one, rising$"):
        CurveArm(name="x", points=(TARGET, TARGET))


def study() -> SelectionStudy:
    def arm(name: str, scale: float, *sizes: int, is_control: bool = False) -> CurveArm:
        points = tuple(
            CurvePoint(
                subset_size=size, accuracies=(0.8 * scale, 0.9 * scale), selection_s=(size * scale, size * scale)
            )
            for size in sizes
        )
        return CurveArm(name=name, points=points, is_control=is_control)

    return SelectionStudy(
        title="digits, digits_cnn_l, same epochs",
        num_images=1_000,
        arms=(
            arm("target", 1.0, 100, 300, 500),
            arm("proxy", 0.5, 300, 500, 700),
            arm("random", 0.8, 100, 500, is_control=True),
            arm("ccs", 0.85, 100, 500, is_control=True),
        ),
        full=CurvePoint(subset_size=1_000, accuracies=(0.95, 0.97, 0.96)),
    )


def test_arms_are_compared_at_the_sizes_that_both_have() -> None:
    found = compare_arms(study(), proxy="proxy", target="target")
    assert [speed_up.subset_size for speed_up in found] == [300, 500]
    assert [speed_up.ratio for speed_up in found] == pytest.approx([2, 2])
    assert not any(speed_up.counts for speed_up in found)
    with pytest.raises(SelectionError, match=r"^arm: got 'x'; must be one of target, proxy, random, ccs$"):
        compare_arms(study(), proxy="x", target="target")


def test_a_study_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    write_record(study(), path)
    assert read_record(SelectionStudy, path) == study()


def test_the_curve_shows_all_arms_with_the_controls_in_grey() -> None:
    figure = draw_study(study())
    axes = figure.axes[0]
    _, names = axes.get_legend_handles_labels()
    assert sorted(names) == ["all 1,000", "ccs", "proxy", "random", "target"]
    lines = {str(bars.get_label()): bars.lines[0] for bars in axes.containers if isinstance(bars, ErrorbarContainer)}
    assert lines["random"].get_color() == lines["ccs"].get_color() == "#777777"
    assert lines["random"].get_marker() != lines["ccs"].get_marker()
    assert lines["proxy"].get_color() != lines["target"].get_color()
    assert np.asarray(lines["random"].get_ydata()) == pytest.approx([68, 68])
    assert axes.get_ylabel() == "accuracy, % (mean ± std of 2 seeds)"
    figure.savefig(io.BytesIO(), format="png")


def test_a_single_seed_is_drawn_without_spread() -> None:
    point = CurvePoint(subset_size=10, accuracies=(0.5,))
    alone = SelectionStudy(title="x", num_images=20, arms=(CurveArm(name="a", points=(point,)),), full=point)
    figure = draw_study(alone)
    assert figure.axes[0].get_ylabel() == "accuracy, % (1 seed)"
    figure.savefig(io.BytesIO(), format="png")
