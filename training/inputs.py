"""From uint8 pixels to what a network takes, the same for training and evaluation."""
# Shapes: B rows, C channels, H height, W width.

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade_serve.core.arrays import ImageArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """What is baked into the exported graph; training must use the same.

    Attributes:
        mean, std: per channel, on the scale where white is 1.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(f"mean, std: got {len(self.mean)} and {len(self.std)} channels; must be equally many")
        if not all(0 < std < float("inf") for std in self.std):
            raise ValueError(f"std: got {self.std}; must be above 0 and finite")


def to_device(images_BHWC: ImageArray, device: str) -> Tensor:
    """Copy images to a device, uint8 [B, H, W, C] → uint8 [B, C, H, W]."""
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).contiguous().to(device)


def normalise(images_BCHW: Tensor, normalisation: Normalisation) -> Tensor:
    """Turn uint8 [B, C, H, W] into float32 (pixel / 255 - mean) / std."""
    mean_C11 = torch.tensor(normalisation.mean, device=images_BCHW.device)[:, None, None]
    std_C11 = torch.tensor(normalisation.std, device=images_BCHW.device)[:, None, None]
    return (images_BCHW.float() / 255 - mean_C11) / std_C11
