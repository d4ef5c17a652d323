"""What the report's pictures show, read back from the figures: labels apart, colours by member, sound bins in line."""
# Shapes: N rows.

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from cascade_serve.core.plan import Policy, Stage
from cascade_serve.planner.committee import Committee
from cascade_serve.planner.pictures import FEW_ROWS, Dot, draw_exits, draw_pareto, draw_reliability


def drawn(figure: Figure) -> list[Axes]:
    figure.draw_without_rendering()
    return figure.axes


def marks(axes: Axes) -> list[Bbox]:
    """The middle of every dot, a few pixels wide."""
    points = [
        tuple(axes.transData.transform(offset))
        for collection in axes.collections
        if isinstance(collection, PathCollection)
        for offset in np.asarray(collection.get_offsets())
    ]
    return [Bbox.from_extents(x - 3, y - 3, x + 3, y + 3) for x, y in points]


@pytest.mark.parametrize(
    "members",
    [
        [("resnet44", 194e6, 0.8272), ("resnet56", 251e6, 0.8264)],
        [("a-long-name-of-a-member", 100e6, 0.9), ("another-long-name", 104e6, 0.9005), ("third", 108e6, 0.901)],
        [("left", 81e6, 0.8), ("right", 700e6, 0.9), ("upper", 82e6, 0.9), ("twin", 700e6, 0.9)],
    ],
)
def test_labels_cover_neither_each_other_nor_dots(members: list[tuple[str, float, float]]) -> None:
    dots = [Dot(kind="single member", label=name, cost=flops, accuracy=share) for name, flops, share in members]
    dots.append(Dot(kind="reference", label=None, cost=members[-1][1], accuracy=members[-1][2]))
    dots += [Dot(kind="ensemble, all members run", label=None, cost=6e7 * k, accuracy=0.85) for k in range(1, 9)]
    (axes,) = drawn(draw_pareto(dots, 100))
    labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert sorted(label.get_text() for label in labels) == sorted(name for name, _, _ in members)
    boxes = [label.get_window_extent() for label in labels]
    assert not any(box.overlaps(other) for box, other in combinations(boxes, 2))
    assert not any(box.overlaps(mark) for box in boxes for mark in marks(axes))
    assert all(axes.bbox.containsx(edge) for box in boxes for edge in (box.x0, box.x1))
    assert all(axes.bbox.containsy(edge) for box in boxes for edge in (box.y0, box.y1))


def policy(name: str, **shares: float) -> Policy:
    *gated, last = shares
    stages = (*(Stage(member=member, threshold=0.5) for member in gated), Stage(member=last))
    return Policy(name=name, stages=stages, worst_case_flops=1, exit_shares=tuple(shares.values()))


def test_a_member_has_one_colour_wherever_it_stands() -> None:
    figure = draw_exits(
        [policy("default", a=0.7, b=0.3), policy("turned", b=0.2, c=0.01, a=0.79)], ("a", "b", "c", "d")
    )
    (axes,) = drawn(figure)
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    a, b, b_again, c, a_again = (to_hex(bar.get_facecolor()) for bar in bars)
    assert (a, b) == (a_again, b_again)
    assert len({a, b, c}) == 3
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    assert [text.get_text() for text in axes.texts] == ["70", "30", "20", "79"]


def test_more_members_than_colours_differ_by_hatch() -> None:
    names = tuple(f"m{member}" for member in range(16))
    (axes,) = drawn(draw_exits([policy("default", **dict.fromkeys(names, 1 / 16))], names))
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len({(to_hex(bar.get_facecolor()), bar.get_hatch()) for bar in bars}) == 16


def test_bins_of_few_rows_are_off_the_line_and_the_legend_is_off_the_data() -> None:
    # Two classes: 100 rows near 0.99, and too few near 0.6.
    margins_N = np.array([4.6] * 100 + [0.4] * (FEW_ROWS - 1), dtype=np.float32)
    committee = Committee(
        names=("only",),
        flops=(1,),
        temperatures=(1.0,),
        logits=(np.stack([margins_N, np.zeros_like(margins_N)], axis=1),),
        labels_N=np.zeros(len(margins_N), dtype=np.int64),
    )
    (axes,) = drawn(draw_reliability(committee))
    _, line, faint, *_ = axes.lines
    assert np.asarray(line.get_xdata()) == pytest.approx([0.99], abs=0.001)
    assert np.asarray(faint.get_xdata()) == pytest.approx([0.5987], abs=0.001)
    assert (line.get_linestyle(), faint.get_linestyle()) == ("-", "None")
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "only"
    assert legend.get_window_extent().y0 >= axes.bbox.y1
