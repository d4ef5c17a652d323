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


class Normaliser:
    """Normalises many batches on one device.

    Its constants are made once, since making one on a GPU waits for all that the GPU has still to do.

    Args:
        normalisation: of the pixels.
        device: where the images lie.
        memory_format: of the results.
    """

    def __init__(
        self,
        normalisation: Normalisation,
        device: str | torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._mean_C11 = torch.tensor(normalisation.mean, device=device)[:, None, None]
        self._std_C11 = torch.tensor(normalisation.std, device=device)[:, None, None]
        self._format = memory_format

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Turn uint8 [B, C, H, W] into float32 (pixel / 255 - mean) / std."""
        inputs_BCHW = images_BCHW.to(torch.float32, memory_format=self._format)
        return inputs_BCHW.div_(255).sub_(self._mean_C11).div_(self._std_C11)


def to_device(images_BHWC: ImageArray, device: str | torch.device) -> Tensor:
    """Copy images to a device, uint8 [B, H, W, C] → uint8 [B, C, H, W], contiguous; the device brings them in order."""
    # Torch warns of read-only arrays, such as mapped files.
    writeable = images_BHWC if images_BHWC.flags.writeable else images_BHWC.copy()
    return torch.from_numpy(writeable).to(device).permute(0, 3, 1, 2).contiguous()


def normalise(images_BCHW: Tensor, normalisation: Normalisation) -> Tensor:
    """Turn one batch uint8 [B, C, H, W] into float32 (pixel / 255 - mean) / std; see :class:`Normaliser` for many."""
    return Normaliser(normalisation, images_BCHW.device)(images_BCHW)
