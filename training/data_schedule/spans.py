"""Schedules whose epochs train on spans of the data laid in order: all data, Data Step, Data Increment, Data Cut.

Source: Sanderson and Kalganova (arXiv 2208.02007). Every count is exact arithmetic on the decimal numbers that were
asked for: 0.145 of 100 images is 15, though the float nearest to 0.145 lies under it.
"""
# Shapes: N training images, E rows of an epoch.

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from training.data_schedule.config import CutMode, DataCut
from training.data_schedule.protocol import EpochPlan

Spans = tuple[tuple[int, int], ...]
"""Places in the order, each from a first one to one before the last."""


class SpanSchedule:
    """Lays the data in order, by chance or by score, and trains each epoch on given spans of it.

    Args:
        spans: one entry an epoch.
        scores_N: float32 [N], the highest lie first, equal ones by chance; None is chance alone.
        num_images: N.
        redraw_every: the order is drawn anew whenever so many epochs have passed; None keeps the first.
    """

    def __init__(
        self, spans: tuple[Spans, ...], *, num_images: int, redraw_every: int | None, scores_N: Tensor | None
    ) -> None:
        self._spans = spans
        self._num_images = num_images
        self._redraw_every = redraw_every
        self._scores_N = scores_N
        self._order_N: Tensor | None = None

    @property
    def planned_evaluations(self) -> tuple[int, ...]:
        """Images of each epoch, exactly."""
        return tuple(sum(stop - start for start, stop in spans) for spans in self._spans)

    def plan_epoch(self, epoch: int, generator: torch.Generator) -> EpochPlan:
        """Choose and shuffle an epoch's rows; epochs are asked for one after the other."""
        if self._order_N is None or (self._redraw_every is not None and epoch % self._redraw_every == 0):
            self._order_N = self._draw_order(generator)
        rows_E = torch.cat([self._order_N[start:stop] for start, stop in self._spans[epoch]])
        return EpochPlan(rows_E=rows_E[torch.randperm(len(rows_E), generator=generator)])

    def _draw_order(self, generator: torch.Generator) -> Tensor:
        drawn_N = torch.randperm(self._num_images, generator=generator)
        if self._scores_N is None:
            return drawn_N
        return drawn_N[torch.argsort(self._scores_N[drawn_N], descending=True, stable=True)]

    def observe(self, rows_B: Tensor, losses_B: Tensor) -> None:
        """Losses change nothing here."""

    def state_dict(self) -> dict[str, Any]:
        """Give the order in force."""
        return {"order_N": self._order_N}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up an order."""
        self._order_N = state["order_N"]


def all_spans(num_images: int, epochs: int) -> tuple[Spans, ...]:
    """Give everything to each epoch."""
    return (((0, num_images),),) * epochs


def step_spans(num_images: int, epochs: int, *, fraction: float, share: float) -> tuple[Spans, ...]:
    """Give a fraction to the first share of the epochs, and everything to the others."""
    few_epochs = round_half_up(exact(share) * epochs)
    few = max(1, round_half_up(exact(fraction) * num_images))
    return (((0, few),),) * few_epochs + all_spans(num_images, epochs - few_epochs)


def increment_spans(num_images: int, epochs: int, *, fraction: float) -> tuple[Spans, ...]:
    """Give epoch e of E, from 1, fraction + (1 - fraction) e / E."""
    start = exact(fraction)
    fractions = [start + (1 - start) * Fraction(epoch, epochs) for epoch in range(1, epochs + 1)]
    return tuple(((0, max(1, round_half_up(part * num_images))),) for part in fractions)


def cut_spans(num_images: int, epochs: int, config: DataCut) -> tuple[Spans, ...]:
    """Give each epoch its cuts."""
    bounds = [cut * num_images // config.cuts for cut in range(config.cuts + 1)]
    if config.mode is CutMode.CUMULATIVE:
        return tuple(((0, bounds[epoch * config.cuts // epochs + 1]),) for epoch in range(epochs))
    turns = [epoch % config.cuts for epoch in range(epochs)]
    if config.mode is CutMode.ROTATE:
        return tuple(((bounds[turn], bounds[turn + 1]),) for turn in turns)
    return tuple(((0, bounds[turn]), (bounds[turn + 1], num_images)) for turn in turns)


def exact(number: float) -> Fraction:
    """Give the decimal number that a float was written as."""
    return Fraction(repr(float(number)))


def round_half_up(number: Fraction) -> int:
    """Round to the nearest whole number, halves up."""
    return (2 * number.numerator + number.denominator) // (2 * number.denominator)
