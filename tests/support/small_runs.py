"""A small network and a few digits, for tests of the training loop."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from training.augment.config import AugmentConfig, Flip
from training.data.digits import load_digits
from training.data.images import LabelledImages
from training.inputs import Normalisation
from training.loop_config import LoopConfig

NORMALISATION = Normalisation()
CONFIG = LoopConfig(
    epochs=3,
    batch_size=50,
    label_smoothing=0.1,
    augment=AugmentConfig(pad_px=1, pad_mode="constant", flip=Flip.NONE),
)


@cache
def small_digits(num_images: int = 500, start: int = 0) -> LabelledImages:
    return load_digits().take(np.arange(start, start + num_images))


def small_model(seed: int = 0) -> nn.Module:
    """Make a network with batch normalisation and dropout for 8x8 grey images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(72, 10)
        )


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def are_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Tell whether two models' weights are the same to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
