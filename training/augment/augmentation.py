"""The seam between the training loop and everything that changes images at random."""
# Shapes: B rows, C channels, H height, W width.

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Where in the run an augmentation is asked for.

    Attributes:
        epoch: from 0.
        epochs: planned.
    """

    epoch: int
    epochs: int

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < self.epochs:
            raise ValueError(f"epoch: got {self.epoch}; must lie in 0..{self.epochs - 1}")


class Augmentation(Protocol):
    """Changes images at random; asked for some thousands of images at a time, since a call has a fixed price."""

    def __call__(self, images_BCHW: Tensor, ids_B: Tensor, moment: Moment, generator: torch.Generator) -> Tensor:
        """Give changed images.

        Args:
            images_BCHW: uint8 [B, C, H, W]; never changed in place.
            ids_B: int64 [B], each image's number in the whole data set, on the same device.
            moment: where the run is.
            generator: on the CPU, so that every device draws the same numbers.

        Returns:
            uint8, of the same shape and on the same device.
        """
        ...
