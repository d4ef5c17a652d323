"""One optimiser step: forward, loss, backward, clip, step, average."""
# Shapes: B rows, C channels, H height, W width, K classes.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.ema import WeightAverage
from training.loop_config import LoopConfig, Precision
from training.optim import make_optimizer, schedule_lr


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """What a step trains on; all on the device.

    Attributes:
        rows_B: int64 [B], places in the training images.
        inputs_BCHW: float32, augmented and normalised.
        labels_B: int64 [B].
        ids_B: int64 [B], numbers in the whole data set.
        weights_B: float32 [B], of the losses; None is 1 for all.
    """

    rows_B: Tensor
    inputs_BCHW: Tensor
    labels_B: Tensor
    ids_B: Tensor
    weights_B: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows_B)

    def take(self, places_R: Tensor) -> "Batch":
        """Give some rows of it, int64 [R], in the order asked for."""
        return Batch(
            rows_B=self.rows_B[places_R],
            inputs_BCHW=self.inputs_BCHW[places_R],
            labels_B=self.labels_B[places_R],
            ids_B=self.ids_B[places_R],
            weights_B=None if self.weights_B is None else self.weights_B[places_R],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepOutcome:
    """What a step came to; all on the device, so that nothing waits for it.

    Attributes:
        losses_B: float32 [B], before the step, unweighted.
        correct_B: bool [B], before the step.
    """

    losses_B: Tensor
    correct_B: Tensor


class Stepper:
    """Trains a model batch by batch, in the precision and memory format that the configuration asks for.

    Attributes:
        lr: base learning rate of the last step; 0 before the first.

    Args:
        model: on the device; its frozen parameters stay as they are.
        config: how.
        device: where.
    """

    def __init__(self, model: nn.Module, config: LoopConfig, device: torch.device) -> None:
        self.lr = 0.0
        self._model = model
        self._config = config
        self._device = device
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        # The compiled module shares the weights; evaluation and export keep to the plain one.
        self._full_forward = torch.compile(model, dynamic=False) if config.compile else model
        self._optimizer = make_optimizer(model, config.optim)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision is Precision.FP16)
        self._average = _make_average(model, config)

    def __call__(self, batch: Batch, position: float) -> StepOutcome:
        """Train on one batch.

        Args:
            batch: at least one row.
            position: share of the planned examples trained on up to the middle of this batch.
        """
        self.lr = schedule_lr(self._optimizer, self._config.lr, position)
        logits_BK = self._predict(batch.inputs_BCHW)
        losses_B = functional.cross_entropy(
            logits_BK, batch.labels_B, reduction="none", label_smoothing=self._config.label_smoothing
        )
        self._descend(losses_B if batch.weights_B is None else losses_B * batch.weights_B)
        if self._average is not None:
            self._average.update(position)
        return StepOutcome(losses_B=losses_B.detach(), correct_B=logits_BK.detach().argmax(dim=1) == batch.labels_B)

    def _predict(self, inputs_BCHW: Tensor) -> Tensor:
        """Give float32 logits [B, K]."""
        dtype = autocast_dtype(self._config.precision)
        with torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None):
            is_full = len(inputs_BCHW) == self._config.rows_per_step
            logits_BK: Tensor = (self._full_forward if is_full else self._model)(inputs_BCHW)
        return logits_BK.float()

    def _descend(self, losses_B: Tensor) -> None:
        """Step down the mean of these losses."""
        self._optimizer.zero_grad()
        # With other precisions than float16 the scaler hands everything through.
        self._scaler.scale(losses_B.mean()).backward()
        if self._config.gradient_clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._config.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def averaged_model(self) -> nn.Module:
        """Give the weights to use, in evaluation mode: a copy with their average, where one is kept; else the model."""
        return self._model.eval() if self._average is None else self._average.averaged_model()

    def state_dict(self) -> dict[str, Any]:
        """Give the states of optimiser, scaler and average; tensors are shared with them."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up such states, and share their tensors."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """Give the type that autocast turns convolutions and matrix products into; None is float32, without autocast."""
    match precision:
        case Precision.FP32:
            return None
        case Precision.BF16:
            return torch.bfloat16
        case Precision.FP16:
            return torch.float16
        case _:
            assert_never(precision)


def _make_average(model: nn.Module, config: LoopConfig) -> WeightAverage | None:
    if config.ema_decay is None:
        return None
    return WeightAverage(model, config.ema_decay, config.ema_every, is_lookahead=config.ema_lookahead)
