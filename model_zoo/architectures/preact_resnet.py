"""Pre-activation ResNets for small images: the shortcut from the first unit to the last is free of activations.

Source: He et al., "Identity Mappings in Deep Residual Networks" (ECCV 2016, arXiv 1603.05027): the units of figure
1(b) and 4(e), with the nets for CIFAR of its appendix and of "Deep Residual Learning" (arXiv 1512.03385), section 4.2.

Where a unit changes the shape, the sources do two things, both of which are here: nets of basic units pad with zeros
(section 4.1 there, option A), nets of bottlenecks project by a 1x1 convolution behind the unit's first activation (the
authors' program). In the first unit the activation stands before the two paths split (appendix), so that the stem's
output is activated just once.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.initialisation import draw_weights
from model_zoo.architectures.shortcut import padded_shortcut

_EXPANSION = {"basic": 1, "bottleneck": 4}
# Layers with weights in one unit of each of the three groups, beside the stem and the linear layer.
_LAYERS = {"basic": 6, "bottleneck": 9}
_SHORTCUTS = ("padding", "projection")


class _Unit(nn.Module):
    """Normalisation and activation before each convolution.

    Args:
        channels_in, channels_out: C.
        stride: of the unit's first convolution, pixels.
        block: ``basic``: 3x3, 3x3; ``bottleneck``: 1x1, 3x3, 1x1 with a quarter of the filters inside.
        shortcut: ``padding`` or ``projection``, where the shape changes.
        is_first: the unit stands behind the stem.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, *, block: str, shortcut: str, is_first: bool
    ) -> None:
        super().__init__()
        is_same = stride == 1 and channels_in == channels_out
        self.bn = nn.BatchNorm2d(channels_in)
        self.residual = _residual(channels_in, channels_out, stride, block)
        self.projection: nn.Conv2d | None = None
        if shortcut == "projection" and not is_same:
            self.projection = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        self._is_first = is_first
        self._stride = stride
        self._new_channels = channels_out - channels_in

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        active_BCHW = functional.relu(self.bn(maps_BCHW))
        output_BCHW: Tensor = self._shortcut(maps_BCHW, active_BCHW) + self.residual(active_BCHW)
        return output_BCHW

    def _shortcut(self, maps_BCHW: Tensor, active_BCHW: Tensor) -> Tensor:
        if self.projection is not None:
            projected_BCHW: Tensor = self.projection(active_BCHW)
            return projected_BCHW
        start_BCHW = active_BCHW if self._is_first else maps_BCHW
        return padded_shortcut(start_BCHW, stride=self._stride, new_channels=self._new_channels)


def _residual(channels_in: int, channels_out: int, stride: int, block: str) -> nn.Sequential:
    """Give a unit's branch from behind its first activation."""
    kernels = (3, 3) if block == "basic" else (1, 3, 1)
    inner = channels_out // _EXPANSION[block]
    widths = (channels_in, *(inner,) * (len(kernels) - 1), channels_out)
    layers: list[nn.Module] = []
    for position, (kernel, (before, after)) in enumerate(zip(kernels, pairwise(widths), strict=True)):
        if position:
            layers += [nn.BatchNorm2d(before), nn.ReLU()]
        step = 1 if position else stride
        layers.append(nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=False))
    return nn.Sequential(*layers)


class PreactResNet(nn.Module):
    """A pre-activation ResNet for small images.

    Args:
        depth: of the layers with weights: 6n + 2 of basic units (20, 32, 44, 56, 110), 9n + 2 of bottlenecks (164).
        classes: K.
        channels: C of the input.
        block: ``basic`` or ``bottleneck``; the paper takes bottlenecks from depth 164 on.
        shortcut: ``padding`` or ``projection``; None takes padding with basic units, projection with bottlenecks.
        width: filters of the stem; the groups have 1, 2 and 4 times as many, and bottlenecks four times those.

    Raises:
        ValueError: no such block or shortcut, or no n at least 1 gives that depth.
    """

    def __init__(
        self,
        *,
        depth: int,
        classes: int,
        channels: int = 3,
        block: str = "basic",
        shortcut: str | None = None,
        width: int = 16,
    ) -> None:
        super().__init__()
        if block not in _LAYERS:
            raise ValueError(f"block: got {block!r}; must be one of {', '.join(_LAYERS)}")
        shortcut = shortcut or ("padding" if block == "basic" else "projection")
        if shortcut not in _SHORTCUTS:
            raise ValueError(f"shortcut: got {shortcut!r}; must be one of {', '.join(_SHORTCUTS)}")
        layers = _LAYERS[block]
        units, rest = divmod(depth - 2, layers)
        if units < 1 or rest:
            raise ValueError(f"depth: got {depth}; must be {layers}n + 2 with n at least 1, of {block} units")
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        groups: list[nn.Module] = []
        filters = width
        for group in range(3):
            channels_out = width * 2**group * _EXPANSION[block]
            for position in range(units):
                stride = 2 if group and position == 0 else 1
                is_first = group == position == 0
                groups.append(_Unit(filters, channels_out, stride, block=block, shortcut=shortcut, is_first=is_first))
                filters = channels_out
        self.units = nn.Sequential(*groups)
        self.bn = nn.BatchNorm2d(filters)
        self.linear = nn.Linear(filters, classes)
        draw_weights(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        maps_BCHW = self.units(self.stem(images_BCHW))
        logits_BK: Tensor = self.linear(functional.relu(self.bn(maps_BCHW)).mean(dim=(2, 3)))
        return logits_BK
