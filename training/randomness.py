"""A run's own random numbers: the global generators are borrowed, and given back as they were."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Randomness:
    """Generators of one run.

    Attributes:
        order: on the CPU, for the data schedule.
        augmentation: on the CPU, for augmentation; apart from ``order``, so that runs that augment differently see
            their images in the same order.

    Dropout and its like can draw from torch's global generators only. These are set to the run's own state while
    it trains (:meth:`in_force`), and back to what they were when it is done.

    Args:
        seed: at least 0.
        device: where the run trains.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        order, augmentation, model = (_stream(seed, number) for number in range(3))
        self.order = torch.Generator().manual_seed(order)
        self.augmentation = torch.Generator().manual_seed(augmentation)
        self._device = device
        self._cpu_state = torch.Generator().manual_seed(model).get_state()
        self._cuda_state = _cuda_state(model, device)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Lend the run's state to the global generators."""
        cpu_before = torch.get_rng_state()
        cuda_before = None if self._cuda_state is None else torch.cuda.get_rng_state(self._device)
        torch.set_rng_state(self._cpu_state)
        if self._cuda_state is not None:
            torch.cuda.set_rng_state(self._cuda_state, self._device)
        try:
            yield
        finally:
            self._cpu_state = torch.get_rng_state()
            torch.set_rng_state(cpu_before)
            if cuda_before is not None:
                self._cuda_state = torch.cuda.get_rng_state(self._device)
                torch.cuda.set_rng_state(cuda_before, self._device)

    def state_dict(self) -> dict[str, Any]:
        """Give all states, uint8 on the CPU; ``cuda`` is None where the run trains elsewhere."""
        return {
            "order": self.order.get_state(),
            "augmentation": self.augmentation.get_state(),
            "cpu": self._cpu_state.clone(),
            "cuda": None if self._cuda_state is None else self._cuda_state.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up such states; that of a GPU only where both sides train on one."""
        self.order.set_state(state["order"])
        self.augmentation.set_state(state["augmentation"])
        self._cpu_state = state["cpu"].clone()
        if self._cuda_state is not None and state["cuda"] is not None:
            self._cuda_state = state["cuda"].clone()


def _stream(seed: int, number: int) -> int:
    """Give the seed of one of several independent streams."""
    # 63 bits: torch takes no larger seed from some platforms' integers.
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> 1)


def _cuda_state(seed: int, device: torch.device) -> Tensor | None:
    return torch.Generator(device).manual_seed(seed).get_state() if device.type == "cuda" else None
