"""The seam between the training loop and what chooses each epoch's images."""
# Shapes: N training images, E rows of an epoch, B rows of a batch.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochPlan:
    """What an epoch trains on.

    Attributes:
        rows_E: int64 [E], places in the training images, on the CPU, in the order of training.
        weights_E: float32 [E], weight of each row's loss, on the CPU; None is 1 for all.
    """

    rows_E: Tensor
    weights_E: Tensor | None = None


class DataSchedule(Protocol):
    """Chooses what each epoch trains on (Sanderson and Kalganova, arXiv 2208.02007, and what came after)."""

    @property
    def planned_evaluations(self) -> tuple[int, ...]:
        """Images that each epoch is planned to train on; learning rates are built from them."""
        ...

    def plan_epoch(self, epoch: int, generator: torch.Generator) -> EpochPlan:
        """Choose and shuffle an epoch's rows.

        Args:
            epoch: from 0.
            generator: on the CPU.
        """
        ...

    def observe(self, rows_B: Tensor, losses_B: Tensor) -> None:
        """Hear the losses of rows that were trained on: int64 [B] and float32 [B], unweighted, on the device."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give what a resumed run needs; tensors and plain values only."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up such a state."""
        ...
