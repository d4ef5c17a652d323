"""Learning-rate schedules over a run's planned number of examples, so that they fit any data schedule.

A position is the share of the planned examples that have been trained on: 0 at the start, 1 at the end. What papers
give in epochs becomes shares by the helpers at the end of this file.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

# An epoch's end, computed from floats, may miss its share by a few ulps; it still counts as reached.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Constant:
    """The same rate throughout.

    Attributes:
        lr: the rate.
    """

    kind: Literal["constant"] = "constant"
    lr: float = 0.1

    def __post_init__(self) -> None:
        _check_rate("lr", self.lr)

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        del position
        return self.lr

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return self.lr


@dataclass(frozen=True, kw_only=True, slots=True)
class OneCycle:
    """Linear up, then linear down (Smith and Topin, arXiv 1708.07120, without its last phase).

    Attributes:
        peak_lr: the largest rate.
        warmup_share: share of the run on the way up; 0 starts at the peak.
        start_factor, end_factor: the first and the last rate, as shares of the peak.
    """

    kind: Literal["one_cycle"] = "one_cycle"
    peak_lr: float = 0.2
    warmup_share: float = 0.25
    start_factor: float = 0.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_rate("peak_lr", self.peak_lr)
        _check_share("warmup_share", self.warmup_share)
        for name in ("start_factor", "end_factor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be between 0 and 1")

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        if position < self.warmup_share:
            return self.peak_lr * _line(self.start_factor, 1.0, position / self.warmup_share)
        return self.peak_lr * _line(1.0, self.end_factor, (position - self.warmup_share) / (1 - self.warmup_share))

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return self.peak_lr


@dataclass(frozen=True, kw_only=True, slots=True)
class PiecewiseLinear:
    """Straight lines between knots.

    Attributes:
        knots: (position, rate) pairs; positions grow from 0 to 1, rates are at least 0 and one is above.
    """

    kind: Literal["piecewise_linear"] = "piecewise_linear"
    knots: tuple[tuple[float, float], ...] = ((0.0, 0.0), (5 / 24, 0.4), (1.0, 0.0))

    def __post_init__(self) -> None:
        positions = [position for position, _ in self.knots]
        rates = [rate for _, rate in self.knots]
        is_growing = all(before < after for before, after in pairwise(positions))
        if len(positions) < 2 or positions[0] != 0 or positions[-1] != 1 or not is_growing:
            raise ValueError(f"knots: got positions {positions}; must grow from 0 to 1")
        if not all(0 <= rate < math.inf for rate in rates) or max(rates) == 0:
            raise ValueError(f"knots: got rates {rates}; must be at least 0 and finite, one of them above 0")

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        for (left, left_lr), (right, right_lr) in pairwise(self.knots):
            if position <= right:
                return _line(left_lr, right_lr, (position - left) / (right - left))
        return self.knots[-1][1]

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return max(rate for _, rate in self.knots)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """A half cosine down to ``end_factor`` (Loshchilov and Hutter, arXiv 1608.03983, without restarts).

    Attributes:
        peak_lr: the largest rate.
        warmup_share: share of the run in which the rate first grows from 0 to the peak, linearly.
        end_factor: the last rate, as a share of the peak.
    """

    kind: Literal["cosine"] = "cosine"
    peak_lr: float = 0.1
    warmup_share: float = 0.0
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_rate("peak_lr", self.peak_lr)
        _check_share("warmup_share", self.warmup_share)
        if not 0 <= self.end_factor <= 1:
            raise ValueError(f"end_factor: got {self.end_factor}; must be between 0 and 1")

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        if position < self.warmup_share:
            return self.peak_lr * position / self.warmup_share
        done = (position - self.warmup_share) / (1 - self.warmup_share)
        return self.peak_lr * _line(self.end_factor, 1.0, (1 + math.cos(math.pi * done)) / 2)

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return self.peak_lr


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDecay:
    """Multiplied by a factor at equal distances, such as "halved every 30 epochs".

    Attributes:
        peak_lr: the first rate.
        factor: of each step.
        every_share: distance of the steps, as a share of the run.
    """

    kind: Literal["step_decay"] = "step_decay"
    peak_lr: float = 0.1
    factor: float = 0.5
    every_share: float = 0.25

    def __post_init__(self) -> None:
        _check_decay(self.peak_lr, self.factor, self.every_share)

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        return self.peak_lr * math.pow(self.factor, math.floor(position / self.every_share + _ROUNDING))

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return self.peak_lr


@dataclass(frozen=True, kw_only=True, slots=True)
class Exponential:
    """Multiplied by a factor over equal distances, smoothly, such as "x 0.98 an epoch".

    Attributes:
        peak_lr: the first rate.
        factor: over ``every_share``.
        every_share: distance over which the factor is reached, as a share of the run.
    """

    kind: Literal["exponential"] = "exponential"
    peak_lr: float = 1e-3
    factor: float = 0.98
    every_share: float = 1 / 300

    def __post_init__(self) -> None:
        _check_decay(self.peak_lr, self.factor, self.every_share)

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        return self.peak_lr * math.pow(self.factor, position / self.every_share)

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return self.peak_lr


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiStep:
    """A rate for each part of the run.

    Attributes:
        lrs: one a part.
        starts: where each part begins, from 0 on, growing.
    """

    kind: Literal["multi_step"] = "multi_step"
    lrs: tuple[float, ...] = (0.1, 0.01, 0.001)
    starts: tuple[float, ...] = (0.0, 0.5, 0.75)

    def __post_init__(self) -> None:
        if len(self.lrs) != len(self.starts) or not self.lrs:
            raise ValueError(
                f"lrs, starts: got {len(self.lrs)} and {len(self.starts)}; must be equally many, at least 1"
            )
        for rate in self.lrs:
            _check_rate("lrs", rate)
        is_growing = all(before < after for before, after in pairwise((*self.starts, 1.0)))
        if self.starts[0] != 0 or not is_growing:
            raise ValueError(f"starts: got {list(self.starts)}; must grow from 0 and stay below 1")

    def at(self, position: float) -> float:
        """Give the rate at a position in [0, 1]."""
        return self.lrs[bisect_right(self.starts, position + _ROUNDING) - 1]

    @property
    def largest_lr(self) -> float:
        """The largest rate."""
        return max(self.lrs)


LrConfig: TypeAlias = Annotated[
    Constant | OneCycle | PiecewiseLinear | Cosine | StepDecay | Exponential | MultiStep, Field(discriminator="kind")
]
"""Any schedule; text forms tell them apart by ``kind``."""


def lr_at(config: LrConfig, position: float) -> float:
    """Give the base learning rate at a position of the run.

    Args:
        config: the schedule.
        position: examples trained on so far, up to the middle of the batch, over those planned; what lies past 1, where
            a plan was only an estimate, is taken as 1.

    Returns:
        at least 0. The middle of a batch lies strictly between 0 and 1, so no batch of a one-cycle run gets 0.

    Raises:
        ValueError: the position is below 0 or not a number.
    """
    if not position >= 0:
        raise ValueError(f"position: got {position}; must be at least 0")
    return config.at(min(position, 1.0))


def triangular(peak_lr: float = 0.4, *, peak_epoch: float = 5, epochs: float = 24) -> PiecewiseLinear:
    """Give the triangle of Page's ResNet-9: epochs [0, 5, 24] → [0, 0.4, 0] for batches of 512."""
    return PiecewiseLinear(knots=((0.0, 0.0), (peak_epoch / epochs, peak_lr), (1.0, 0.0)))


def decay_every(peak_lr: float, factor: float, *, every_epochs: float, epochs: float) -> StepDecay:
    """Give a step decay from epochs, such as 0.5 every 30 of 120."""
    return StepDecay(peak_lr=peak_lr, factor=factor, every_share=every_epochs / epochs)


def exponential(peak_lr: float, factor: float, *, epochs: float) -> Exponential:
    """Give an exponential decay by a factor an epoch, such as 0.98 over 300 (Sanderson and Kalganova)."""
    return Exponential(peak_lr=peak_lr, factor=factor, every_share=1 / epochs)


def multi_step(lrs: Sequence[float], epochs: Sequence[float]) -> MultiStep:
    """Give a schedule from the epochs of its parts, such as (1, 90, 45, 45) at (0.01, 0.1, 0.01, 0.001) (SVP)."""
    starts = [0.0, *accumulate(epochs)][:-1]
    return MultiStep(lrs=tuple(lrs), starts=tuple(start / sum(epochs) for start in starts))


def _line(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


def _check_rate(name: str, rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"{name}: got {rate}; must be above 0 and finite")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name}: got {share}; must be at least 0 and below 1")


def _check_decay(peak_lr: float, factor: float, every_share: float) -> None:
    _check_rate("peak_lr", peak_lr)
    if not 0 < factor <= 1:
        raise ValueError(f"factor: got {factor}; must be above 0 and at most 1")
    if not 0 < every_share < math.inf:
        raise ValueError(f"every_share: got {every_share}; must be above 0 and finite")
