"""An average over the weights of the last steps, which is often better than the last weights."""

import copy
import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's weights and floating-point buffers.

    After n updates with weights w_1 ... w_n and d = decay ** every, it is the sum of (1 - d) d^(n-i) w_i over i,
    divided by 1 - d^n: the shares sum to 1 and nothing of the random first weights is in it, so that short runs can use
    the decay of long ones. Page's program ("Bag of Tricks", 2019: 0.99, every 5 steps) and TensorFlow's average in that
    of the capsule networks (0.999) start from the first weights instead; after a few times 1 / (1 - decay) steps there
    is no difference.

    With ``is_lookahead`` the average also becomes the model's weights at each update (Zhang et al., NeurIPS 2019, arXiv
    1907.08610) and d grows with the run, as in airbench: d = decay ** every x position ** 3; there is then no division,
    as the first update copies the weights.

    Args:
        model: that is trained, where it is to stay; its tensors are read, and with ``is_lookahead`` written, in place.
        decay: a step's, in [0, 1).
        every: steps from one update to the next, at least 1.
        is_lookahead: write the average back.

    Raises:
        ValueError: decay or every is out of range.
    """

    def __init__(self, model: nn.Module, decay: float, every: int = 1, *, is_lookahead: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: got {decay}; must be at least 0 and below 1")
        if every < 1:
            raise ValueError(f"every: got {every}; must be at least 1")
        self._model = model
        self._decay = decay**every
        self._every = every
        self._is_lookahead = is_lookahead
        self._steps = 0
        self._updates = 0
        self._trained = _averaged(model)
        self._average = {name: tensor.detach().clone() for name, tensor in self._trained.items()}

    @torch.no_grad()
    def update(self, position: float = 1.0) -> None:
        """Count a step, and take the weights into the average at every so many.

        Args:
            position: share of the run done, in [0, 1]; of use with ``is_lookahead`` alone.
        """
        self._steps += 1
        if self._steps % self._every:
            return
        self._updates += 1
        share = self._share(position)
        average, trained = list(self._average.values()), list(self._trained.values())
        if share == 1:
            _copy(trained, average)
        else:
            # All tensors in a few calls; of its count of updates this function makes no use.
            get_ema_multi_avg_fn(1 - share)(average, trained, 0)
        if self._is_lookahead:
            _copy(average, trained)

    def averaged_model(self) -> nn.Module:
        """Copy the model with averaged weights, in evaluation mode; before the first update with its own weights."""
        averaged = copy.deepcopy(self._model).eval()
        if self._updates:
            # Buffers that count, such as the batches that a norm has seen, are the model's own.
            averaged.load_state_dict(self._average, strict=False)
        return averaged

    def state_dict(self) -> dict[str, Any]:
        """Give what :meth:`load_state_dict` takes up to the bit; tensors are shared, not copied."""
        return {"steps": self._steps, "updates": self._updates, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: it is of another model.
        """
        average: dict[str, Tensor] = state["average"]
        if {name: item.shape for name, item in average.items()} != {
            name: item.shape for name, item in self._average.items()
        }:
            raise ValueError("average: got tensors of other names or shapes; must be the model's")
        for name, tensor in self._average.items():
            tensor.copy_(average[name])
        self._steps, self._updates = int(state["steps"]), int(state["updates"])

    def _share(self, position: float) -> float:
        """Give the new weights' share of the average."""
        if self._updates == 1:
            return 1.0
        if self._is_lookahead:
            return 1 - self._decay * position**3
        return (1 - self._decay) / (1 - math.pow(self._decay, self._updates))


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Name the tensors that are averaged: the model's own parameters and floating-point buffers."""
    named = chain(model.named_parameters(), model.named_buffers())
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    for given, taken in zip(source, target, strict=True):
        taken.copy_(given)
