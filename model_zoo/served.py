"""A network as it is served: behind its preamble, from pixels to float32 logits. Exported to ONNX, or run by torch."""
# Shapes: B rows, K classes, BHWC images as they come in, BCHW as the network sees them.

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.catalogue import InputPreset
from model_zoo.card import Card, TaskCard
from model_zoo.errors import ExportError
from model_zoo.registry import TIMM, TORCHVISION, build_model
from model_zoo.store import CONFIG_FILE, WEIGHTS_FILE
from model_zoo.weights import load_weights

_ELSEWHERE = (TIMM + "hf-hub:", TIMM + "local-dir:")
_REWIRED = (TORCHVISION + "googlenet", TORCHVISION + "inception_v3")
"""torchvision gives these another preamble of their own when they are made with pretrained weights."""


class ServedModule(nn.Module):
    """A network behind its preamble: resize where sizes differ, grey repeated where it wants colour, normalise.

    Args:
        network: takes normalised float32 [B, C, H, W].
        preset: what it wants to see.
        task: what comes in.

    Attributes:
        size: height and width of the network's input, pixels.
        channels: of the same.

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
        self.size = (preset.height, preset.width)
        self.channels = preset.channels
        self._is_resized = self.size != (task.height, task.width)
        self.register_buffer("mean", 255 * torch.tensor(preset.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(preset.std).view(1, -1, 1, 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits float32 [B, K] for uint8 images [B, H, W, C] at the task's size."""
        images_BCHW = images.permute(0, 3, 1, 2).to(torch.float32)
        if self._is_resized:
            images_BCHW = functional.interpolate(
                images_BCHW, size=self.size, mode="bilinear", align_corners=False, antialias=True
            )
        # Grey broadcasts to the network's channels, where it is repeated.
        normal_BCHW = (images_BCHW - self.mean) * self.scale
        logits_BK: Tensor = self.network(normal_BCHW)
        return logits_BK.to(torch.float32)


def load_served(folder: Path, card: Card) -> ServedModule:
    """Build a member's network anew from the files beside its graph.

    Args:
        folder: holds ``model.safetensors``, and ``config.json`` where the architecture came from elsewhere.
        card: the member's.

    Returns:
        the network in float32 on the CPU, in evaluation mode.

    Raises:
        ExportError: it has no torch weights, as its owner gave an ONNX file; or a file is missing, broken or does not
            fit the architecture.
        UnknownArchitectureError: the architecture isn't known here.
    """
    if card.architecture == "onnx":
        raise ExportError(f"{folder}: was made from an ONNX file and has no torch network; serve it on another engine")
    name = card.architecture
    if card.provenance.weights == "pretrained" and name in _REWIRED:
        raise ExportError(f"{folder}: {name} changes with pretrained weights; serve it on another engine")
    weights_file = folder / WEIGHTS_FILE
    if not weights_file.is_file():
        raise ExportError(f"{weights_file}: is missing; the torch network can't be built without it")
    if name.startswith(_ELSEWHERE):
        name = TIMM + _read_architecture(folder / CONFIG_FILE)
    size = card.input
    built = build_model(
        name,
        classes=len(card.task.classes),
        channels=card.task.channels,
        image_size=size.height if size.height == size.width else None,
        arguments=card.arguments,
    )
    load_weights(built.module, weights_file)
    preset = replace(built.preset, height=size.height, width=size.width, mean=size.mean, std=size.std)
    return ServedModule(built.module, preset, card.task).eval()


def _read_architecture(file: Path) -> str:
    try:
        return str(json.loads(file.read_bytes())["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{file}: names no architecture: {error}") from error
