"""The plot of a schedule: heights are the schedule's numbers, and every op has a key of its own."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex

from training.augment.ops import initial_policy, op_names
from training.augment.picture import draw_policy_schedule
from training.augment.policy import Policy, PolicyEntry, PolicySchedule, Segment


def _schedule(*segments: tuple[int, Policy]) -> PolicySchedule:
    return PolicySchedule(segments=tuple(Segment(epochs=epochs, policy=policy) for epochs, policy in segments))


_ZERO = (PolicyEntry(op="Rotate"), PolicyEntry(op="Color"), PolicyEntry(op="Rotate"))
_FULL = (
    PolicyEntry(op="Rotate", probability=10, magnitude=9),
    PolicyEntry(op="Color", probability=5, magnitude=6),
    PolicyEntry(op="Rotate", probability=4, magnitude=1),
)


def _bands(axes: Axes, epoch: float) -> list[tuple[float, float]]:
    """Give bottom and top of each area at an epoch, from the lowest area on."""
    bands = []
    for area in axes.collections:
        assert isinstance(area, PolyCollection)
        vertices = np.concatenate([path.vertices for path in area.get_paths()])
        before = vertices[vertices[:, 0] <= epoch]
        at = before[before[:, 0] == before[:, 0].max()][:, 1]
        after = vertices[vertices[:, 0] > epoch]
        beside = after[after[:, 0] == after[:, 0].min()][:, 1]
        heights = [height for height in at if np.isclose(beside, height).any()]
        bands.append((min(heights), max(heights)))
    return bands


def test_areas_are_shares_of_the_probability_and_mean_magnitudes() -> None:
    figure = draw_policy_schedule(_schedule((2, _ZERO), (1, _FULL)))
    shares, magnitudes = figure.axes
    # Color lies below Rotate. Means of the copies: Color 0.5 and 0.6, Rotate 0.7 and 0.5.
    for start, low, high in ((0.5, 0.0, 0.0), (2.0, 100 * 0.5 / 1.2, 100.0)):
        (bottom, middle), (same, top) = _bands(shares, start)
        assert bottom == 0
        assert middle == same == pytest.approx(low, rel=1e-5)
        assert top == pytest.approx(high, rel=1e-5)
    (_, middle), (_, top) = _bands(magnitudes, 2.0)
    assert middle == pytest.approx(0.6, rel=1e-5)
    assert top == pytest.approx(1.1, rel=1e-5)
    assert shares.get_xlim() == magnitudes.get_xlim() == (0, 3)
    assert shares.get_ylim() == (0, 100)


def test_a_schedule_is_stretched_to_the_run() -> None:
    assert draw_policy_schedule(_schedule((2, _ZERO), (1, _FULL)), 90).axes[0].get_xlim() == (0, 90)


def test_every_op_has_a_colour_of_its_own_and_unknown_ops_have_hatches() -> None:
    others = tuple(PolicyEntry(op=f"Own{place}", probability=3, magnitude=3) for place in range(7))
    figure = draw_policy_schedule(_schedule((1, initial_policy()), (3, initial_policy() + others)))
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == sorted([*op_names(), *(entry.op for entry in others)])
    keys = legend.get_patches()
    styles = {(to_hex(key.get_facecolor()), key.get_hatch()) for key in keys}
    assert len(styles) == len(names) == 22
    figure.savefig(image := BytesIO(), format="png")
    assert image.getvalue().startswith(b"\x89PNG")
