"""A network as it is served: behind its preamble, from pixels to float32 logits. Exported to ONNX, or run by torch."""
# Shapes: B rows, K classes, BHWC images as they come in, BCHW as the network sees them.

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.catalogue import InputPreset
from model_zoo.card import TaskCard
from model_zoo.errors import ExportError


class ServedModule(nn.Module):
    """A network behind its preamble: resize where sizes differ, grey repeated where it wants colour, normalise.

    Args:
        network: takes normalised float32 [B, C, H, W].
        preset: what it wants to see.
        task: what comes in.

    Raises:
        ExportError: the network wants grey and the task has colour.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, preset: InputPreset, task: TaskCard) -> None:
        super().__init__()
        if task.channels not in (preset.channels, 1):
            raise ExportError(f"channels: the network takes {preset.channels}; the task has {task.channels}")
        self.network = network
        self._size = (preset.height, preset.width)
        self._is_resized = self._size != (task.height, task.width)
        self._repeats = preset.channels // task.channels
        self.register_buffer("mean", 255 * torch.tensor(preset.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(preset.std).view(1, -1, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits float32 [B, K] for uint8 images [B, H, W, C] at the task's size."""
        images_BCHW = images.permute(0, 3, 1, 2).to(torch.float32)
        if self._is_resized:
            images_BCHW = functional.interpolate(
                images_BCHW, size=self._size, mode="bilinear", align_corners=False, antialias=True
            )
        # Grey broadcasts to the network's channels, where it is repeated.
        normal_BCHW = (images_BCHW - self.mean) * self.scale
        logits_BK: Tensor = self.network(normal_BCHW)
        return logits_BK.to(torch.float32)
