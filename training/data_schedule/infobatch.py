"""InfoBatch: images known well are dropped at random, and the kept ones of them weigh more.

Source: Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning" (ICLR 2024,
arXiv 2303.04947).
"""
# Shapes: N training images, E rows of an epoch, B rows of a batch.

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from training.data_schedule.config import InfoBatch
from training.data_schedule.protocol import EpochPlan
from training.data_schedule.spans import exact, round_half_up


class InfoBatchSchedule:
    """Keeps each image's last loss, and drops some of those under their mean.

    An image that has no finite loss yet counts as high, so the first epoch trains on everything.

    Args:
        config: how many.
        num_images: N.
        epochs: of the run.
    """

    def __init__(self, config: InfoBatch, *, num_images: int, epochs: int) -> None:
        self._config = config
        self._num_images = num_images
        self._epochs = epochs
        self._annealed_from = epochs - round_half_up(exact(config.anneal) * epochs)
        self._losses_N = torch.full((num_images,), torch.nan)

    @property
    def planned_evaluations(self) -> tuple[int, ...]:
        """A bound on the expected images of each epoch; the loop's reports count those that were trained on.

        Losses lean to the right: at least half of them lie under their mean. So an epoch that drops is expected to
        train on at most 1 - r / 2 of the images; the first and the annealed ones train on all.
        """
        dropping = round_half_up((1 - exact(self._config.prune) / 2) * self._num_images)
        return tuple(dropping if 0 < epoch < self._annealed_from else self._num_images for epoch in range(self._epochs))

    def plan_epoch(self, epoch: int, generator: torch.Generator) -> EpochPlan:
        """Drop, weigh and shuffle."""
        rows_N = torch.randperm(self._num_images, generator=generator)
        if epoch >= self._annealed_from:
            return EpochPlan(rows_E=rows_N)
        low_N = self._find_low()[rows_N]
        dropped_N = low_N & (torch.rand(self._num_images, generator=generator) < self._config.prune)
        weights_N = torch.where(low_N, 1 / (1 - self._config.prune), 1.0)
        kept_N = ~dropped_N
        return EpochPlan(rows_E=rows_N[kept_N], weights_E=weights_N[kept_N])

    def _find_low(self) -> Tensor:
        """Tell whose last loss lies under the mean of the known ones: bool [N], on the CPU."""
        losses_N = self._losses_N.cpu()
        known_N = losses_N.isfinite()
        # In double precision the mean of equal losses is that loss, and none of them lies under it.
        return known_N & (losses_N < losses_N[known_N].double().mean())

    def observe(self, rows_B: Tensor, losses_B: Tensor) -> None:
        """Keep the losses, on the device where they are made, so that nothing waits for them."""
        if self._losses_N.device != losses_B.device:
            self._losses_N = self._losses_N.to(losses_B.device)
        self._losses_N[rows_B] = losses_B.detach().float()

    def state_dict(self) -> dict[str, Any]:
        """Give the last losses, float32 [N]; NaN is unknown."""
        return {"losses_N": self._losses_N.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up last losses."""
        self._losses_N = state["losses_N"].clone()
