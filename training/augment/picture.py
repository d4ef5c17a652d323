"""A policy schedule over the epochs, drawn as in the paper (Ho et al., arXiv 1905.05393, figure 4)."""
# Shapes: O ops, E epochs.

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cascade_serve.core.arrays import FloatArray
from training.augment.ops import op_names
from training.augment.policy import MAX_PROBABILITY, Policy, PolicySchedule

_FAMILIES = {
    "AutoContrast": "#7F2704", "Equalize": "#D94801", "Contrast": "#FD8D3C", "Brightness": "#FDD0A2",
    "Color": "#00441B", "Sharpness": "#74C476",
    "Invert": "#3F007D", "Solarize": "#807DBA", "Posterize": "#CBC9E2",
    "Rotate": "#08306B", "ShearX": "#2171B5", "ShearY": "#6BAED6", "TranslateX": "#C6DBEF", "TranslateY": "#4EB3D3",
    "Cutout": "#E7298A",
}  # fmt: skip
"""From the bottom up; ops that do alike lie together, in shades of one colour: light, colour, values, place."""
_OTHERS = ("#252525", "#969696", "#D9D9D9")
_HATCHES = ("", "///", "...", "xxx")
"""Ops of one's own lie on top, in greys, with hatches when there are more than these."""


def draw_policy_schedule(schedule: PolicySchedule, epochs: int | None = None) -> Figure:
    """Draw each op's share of the probability, and its magnitude, stacked over the epochs.

    The copies of an op are averaged. Shares of the probability add up to 100 %, and epochs whose probabilities are all
    zero stay blank; magnitudes, from 0 to 0.9, add up to their sum.

    Args:
        schedule: what to draw; its ops need not be registered.
        epochs: of the run that it is stretched to; None is its own.
    """
    epochs = schedule.epochs if epochs is None else epochs
    policies = [schedule.policy_at(epoch, epochs) for epoch in range(epochs)]
    ops = _drawn_ops(policies)
    probability_OE = _means(policies, ops, "probability")
    total_E = probability_OE.sum(axis=0)
    share_OE = 100 * np.divide(probability_OE, total_E, out=np.zeros_like(probability_OE), where=total_E > 0)
    figure = Figure(figsize=(12, 5), layout="constrained")
    shares, magnitudes = figure.subplots(1, 2)
    _stack(shares, share_OE, ops)
    shares.set_ylim(0, 100)
    shares.set_ylabel("share of the probability, %")
    _stack(magnitudes, _means(policies, ops, "magnitude"), ops)
    magnitudes.set_ylim(bottom=0)
    magnitudes.set_ylabel("sum of the magnitudes")
    styles = _styles(ops)
    keys = [Patch(facecolor=color, hatch=hatch, edgecolor="white", label=op) for op, (color, hatch) in styles.items()]
    figure.legend(handles=keys[::-1], loc="outside right center", frameon=False, fontsize=9)
    return figure


def _drawn_ops(policies: Sequence[Policy]) -> list[str]:
    """Name the schedule's ops in the order of drawing: the paper's by family, then others, registered ones first."""
    present = dict.fromkeys(entry.op for policy in policies for entry in policy)
    order = dict.fromkeys([*_FAMILIES, *op_names(), *present])
    return [op for op in order if op in present]


def _means(policies: Sequence[Policy], ops: Sequence[str], number: str) -> FloatArray:
    """Average a number of the entries over each op's copies, in tenths: [O, E] in 0..1."""
    means_OE = np.zeros((len(ops), len(policies)), dtype=np.float32)
    for epoch, policy in enumerate(policies):
        for place, op in enumerate(ops):
            values = [getattr(entry, number) for entry in policy if entry.op == op]
            means_OE[place, epoch] = sum(values) / max(1, len(values)) / MAX_PROBABILITY
    return means_OE


def _stack(axes: Axes, values_OE: FloatArray, ops: Sequence[str]) -> None:
    """Stack the ops' values; each epoch is as wide as the next."""
    edges = np.arange(values_OE.shape[1] + 1)
    held_OE = np.concatenate([values_OE, values_OE[:, -1:]], axis=1)
    borders_OE = np.concatenate([np.zeros_like(held_OE[:1]), held_OE.cumsum(axis=0)])
    for place, (color, hatch) in enumerate(_styles(ops).values()):
        axes.fill_between(
            edges, borders_OE[place], borders_OE[place + 1], step="post", facecolor=color, hatch=hatch,
            edgecolor="white", linewidth=0.4,
        )  # fmt: skip
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel("epoch")
    axes.grid(visible=True, axis="y", alpha=0.25)


def _styles(ops: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give each op a colour and a hatch."""
    others = [op for op in ops if op not in _FAMILIES]
    colors = len(_OTHERS)
    return {op: (_FAMILIES[op], "") for op in ops if op in _FAMILIES} | {
        op: (_OTHERS[place % colors], _HATCHES[place // colors % len(_HATCHES)]) for place, op in enumerate(others)
    }
