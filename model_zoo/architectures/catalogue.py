"""The zoo's own architectures: name, builder, its arguments, and the input that it is made for.

A new network comes in by its file in this folder and an entry here. A caller's arguments go over the entry's,
so a name stands for a family's published size and not for all that it can build.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import JsonValue
from torch import nn

from model_zoo.architectures.airbench import SIZES as AIRBENCH_SIZES
from model_zoo.architectures.airbench import AirbenchNet
from model_zoo.architectures.cifar_resnet import CifarResNet
from model_zoo.architectures.digits_cnn import SIZES as DIGITS_SIZES
from model_zoo.architectures.digits_cnn import DigitsCnn
from model_zoo.architectures.hvc import HvcNetwork
from model_zoo.architectures.preact_resnet import PreactResNet
from model_zoo.architectures.pyramidnet import PyramidNet
from model_zoo.architectures.resnet9 import TRICKS as RESNET9_TRICKS
from model_zoo.architectures.resnet9 import ResNet9
from model_zoo.architectures.shake_shake import ShakeShake
from model_zoo.architectures.small_vit import SIZES as VIT_SIZES
from model_zoo.architectures.small_vit import small_vit
from model_zoo.architectures.vgg import CONVOLUTIONS, Vgg
from model_zoo.architectures.wide_resnet import WideResNet


@dataclass(frozen=True, kw_only=True, slots=True)
class InputPreset:
    """What a network wants to see.

    Attributes:
        height, width: pixels.
        channels: 1 (grey) or 3 (RGB).
        mean, std: per channel, on the scale where white is 1.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def with_channels(self, channels: int) -> "InputPreset":
        """Give the preset for another number of channels: their average, repeated."""
        if channels == self.channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, channels=channels, mean=(mean,) * channels, std=(std,) * channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One architecture.

    Attributes:
        build: takes ``classes``, ``channels`` and the arguments.
        arguments: of ``build``; a caller's go over them.
        preset: the input that it is made for.
        has_fixed_size: ``build`` also takes ``image_size``, as its weights depend on it.
    """

    build: Callable[..., nn.Module]
    arguments: Mapping[str, JsonValue]
    preset: InputPreset
    has_fixed_size: bool = False


_IMAGENET = InputPreset(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CIFAR = InputPreset(height=32, width=32, channels=3, mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
# Mean and standard deviation of scikit-learn's handwritten digits, all 1,797.
_DIGITS = InputPreset(height=8, width=8, channels=1, mean=(0.3053,), std=(0.3760,))
_WIDE_RESNETS = {"wrn16_4": (16, 4), "wrn28_2": (28, 2), "wrn28_10": (28, 10), "wrn40_2": (40, 2)}
# Depth, widening factor and block of those that ShakeDrop's paper trains.
_PYRAMIDS = {"pyramidnet110_a270": (110, 270, "basic"), "pyramidnet272_a200": (272, 200, "bottleneck")}

CATALOGUE: dict[str, Entry] = {
    **{
        f"resnet{depth}": Entry(build=CifarResNet, arguments={"depth": depth}, preset=_IMAGENET)
        for depth in (20, 32, 44, 56, 110)
    },
    "resnet9": Entry(build=ResNet9, arguments={}, preset=_CIFAR),
    "resnet9_tricks": Entry(build=ResNet9, arguments=RESNET9_TRICKS, preset=_CIFAR),
    **{
        name: Entry(
            build=AirbenchNet,
            arguments={"widths": list(widths), "depth": depth, "norm_momentum": momentum},
            preset=_CIFAR,
        )
        for name, (widths, depth, momentum) in AIRBENCH_SIZES.items()
    },
    "airbench94_muon": Entry(
        build=AirbenchNet,
        arguments={"widths": [64, 256, 256], "has_unit_head": True, "logit_scale": 1 / 256},
        preset=_CIFAR,
    ),
    **{
        name: Entry(build=WideResNet, arguments={"depth": depth, "width": width}, preset=_CIFAR)
        for name, (depth, width) in _WIDE_RESNETS.items()
    },
    **{
        f"preact_resnet{depth}": Entry(build=PreactResNet, arguments={"depth": depth, "block": "basic"}, preset=_CIFAR)
        for depth in (20, 32, 44, 56, 110)
    },
    "preact_resnet164": Entry(build=PreactResNet, arguments={"depth": 164, "block": "bottleneck"}, preset=_CIFAR),
    **{f"vgg{depth}": Entry(build=Vgg, arguments={"depth": depth}, preset=_CIFAR) for depth in CONVOLUTIONS},
    **{
        f"shake_shake26_2x{width}d": Entry(build=ShakeShake, arguments={"width": width}, preset=_CIFAR)
        for width in (32, 64, 96)
    },
    **{
        f"{name}_shakedrop": Entry(
            build=PyramidNet,
            arguments={"depth": depth, "alpha": alpha, "block": block, "survival": 0.5},
            preset=_CIFAR,
        )
        for name, (depth, alpha, block) in _PYRAMIDS.items()
    },
    "hvc": Entry(build=HvcNetwork, arguments={}, preset=_CIFAR, has_fixed_size=True),
    **{
        f"small_vit_{size}": Entry(
            build=small_vit,
            arguments={"dim": dim, "depth": depth, "heads": heads},
            preset=_CIFAR,
            has_fixed_size=True,
        )
        for size, (dim, depth, heads) in VIT_SIZES.items()
    },
    **{
        f"digits_cnn_{size}": Entry(
            build=DigitsCnn,
            arguments={"layers": [list(layer) for layer in layers]},
            preset=_DIGITS,
            has_fixed_size=True,
        )
        for size, layers in DIGITS_SIZES.items()
    },
}
"""Name → architecture."""
