"""Optimisers and their one-cycle learning rate, built from the planned number of steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


class OptimizerName(StrEnum):
    """Which optimiser."""

    SGD = "sgd"
    """Stochastic gradient descent with Nesterov momentum."""
    ADAMW = "adamw"
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """One optimiser on a one-cycle learning rate (Smith and Topin, arXiv 1708.07120): linear up, then down to nothing.

    Attributes:
        name: which optimiser.
        peak_lr: the largest learning rate.
        warmup_share: share of the steps on the way up.
        momentum: Nesterov's for SGD, the first beta for AdamW.
        weight_decay: on weights of two and more dimensions; biases and norms have none.
    """

    name: OptimizerName = OptimizerName.SGD
    peak_lr: float = 0.2
    warmup_share: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if not 0 < self.peak_lr < float("inf"):
            raise ValueError(f"peak_lr: got {self.peak_lr}; must be above 0 and finite")
        if not 0 < self.warmup_share < 1:
            raise ValueError(f"warmup_share: got {self.warmup_share}; must be between 0 and 1, both excluded")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum: got {self.momentum}; must be between 0 and 1, both excluded")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay: got {self.weight_decay}; must be at least 0 and finite")


def make_optimizer(
    parameters: Iterable[nn.Parameter], config: OptimConfig, total_steps: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Build the optimiser and its schedule.

    Args:
        parameters: what is trained.
        config: which optimiser, how fast.
        total_steps: steps that the run plans, at least 1.

    Returns:
        the optimiser, and its schedule, which is stepped after every step.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer
    match config.name:
        case OptimizerName.SGD:
            optimizer = torch.optim.SGD(groups, lr=config.peak_lr, momentum=config.momentum, nesterov=True)
        case OptimizerName.ADAMW:
            optimizer = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(config.momentum, 0.999))
        case _:
            assert_never(config.name)
    return optimizer, LambdaLR(optimizer, lambda step: cycle_factor(step, total_steps, config.warmup_share))


def cycle_factor(step: int, total_steps: int, warmup_share: float) -> float:
    """Give the share of the peak learning rate at a step.

    Args:
        step: from 0.
        total_steps: planned, at least 1.
        warmup_share: share of the steps on the way up.

    Returns:
        above 0 and at most 1 within the plan, so that no step is wasted; 0 after it.
    """
    position = (step + 0.5) / total_steps
    return max(0.0, min(position / warmup_share, (1 - position) / (1 - warmup_share)))
