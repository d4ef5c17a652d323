"""PyramidNets, whose blocks grow wider one by one, with ShakeDrop.

Sources: Han et al., "Deep Pyramidal Residual Networks" (CVPR 2017, arXiv 1610.02915): the additive rule of "Feature Map
Dimension Configuration", shortcuts padded with zeros, and "A New Building Block" (one activation less, and a
normalisation at the end). Yamada et al., "ShakeDrop Regularization for Deep Residual Learning" (2018, arXiv
1802.02375): the noise on each block's branch, and its linear decay.
"""
# Shapes: B rows, C channels, H height, W width, K classes; 1 a dimension that broadcasts.

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.initialisation import draw_weights
from model_zoo.architectures.shake import draw_uniform, scale_both_ways

_STEM = 16
# Layers with weights in one block of each of the three groups, beside the stem and the linear layer.
_LAYERS = {"basic": 6, "bottleneck": 9}
_EXPANSION = {"basic": 1, "bottleneck": 4}
# Level → leading dimensions along which alpha and beta vary.
_LEVELS = {"image": 1, "channel": 2, "pixel": 4}


class ShakeDrop(nn.Module):
    """Scale a residual branch by b + alpha - b alpha, and its gradient by b + beta - b beta.

    b is 1 with probability ``survival``, else 0; alpha is uniform in [-1, 1), beta in [0, 1): a branch is kept as it
    is, or disturbed. In evaluation it is scaled by the expectation, which is ``survival``, as alpha's mean is 0.

    All three are drawn image by image, as in the programs behind the published figures of augmentation policies; the
    paper draws b once for a block and batch, and compares levels for the others. In training mode they come from the
    global generator of the input's device.

    Args:
        survival: in [0, 1].
        level: what has an alpha and a beta of its own: an ``image``, each of its ``channel`` maps, or each ``pixel``.

    Raises:
        ValueError: survival out of range, or no such level.
    """

    def __init__(self, survival: float, level: str = "image") -> None:
        super().__init__()
        if not 0 <= survival <= 1:
            raise ValueError(f"survival: got {survival}; must be in [0, 1]")
        if level not in _LEVELS:
            raise ValueError(f"shakedrop_level: got {level!r}; must be one of {', '.join(_LEVELS)}")
        self.survival = survival
        self._varying = _LEVELS[level]

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Give the maps, float [B, C, H, W], scaled."""
        if self.survival == 1:
            return maps_BCHW
        if not self.training:
            return maps_BCHW * self.survival
        is_kept_B111 = draw_uniform(maps_BCHW, len(maps_BCHW), 1, 1, 1) < self.survival
        shape = (*maps_BCHW.shape[: self._varying], 1, 1, 1)[:4]
        alpha = 2 * draw_uniform(maps_BCHW, *shape) - 1
        beta = draw_uniform(maps_BCHW, *shape)
        return scale_both_ways(maps_BCHW, torch.where(is_kept_B111, 1.0, alpha), torch.where(is_kept_B111, 1.0, beta))


class _Block(nn.Module):
    """A normalisation before the first convolution and behind the last, activations only between convolutions.

    Args:
        channels_in: C of the input.
        filters: of the block's 3x3 convolutions.
        stride: of the first 3x3 convolution, pixels.
        block: ``basic``: 3x3, 3x3; ``bottleneck``: 1x1, 3x3, 1x1 with four times the filters.
        shakedrop: on the branch.
    """

    def __init__(self, channels_in: int, filters: int, stride: int, block: str, shakedrop: ShakeDrop) -> None:
        super().__init__()
        kernels = (3, 3) if block == "basic" else (1, 3, 1)
        channels_out = filters * _EXPANSION[block]
        widths = (channels_in, *(filters,) * (len(kernels) - 1), channels_out)
        layers: list[nn.Module] = [nn.BatchNorm2d(channels_in)]
        for position, (kernel, (before, after)) in enumerate(zip(kernels, pairwise(widths), strict=True)):
            if position:
                layers.append(nn.ReLU())
            # The first 3x3 convolution is the last but one.
            step = stride if position == len(kernels) - 2 else 1
            layers += [
                nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(after),
            ]
        self.residual = nn.Sequential(*layers)
        self.shakedrop = shakedrop
        self._stride = stride
        self._new_channels = channels_out - channels_in

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = maps_BCHW
        if self._stride > 1:
            # Rounded up, as the strided convolution does.
            shortcut_BCHW = functional.avg_pool2d(maps_BCHW, self._stride, ceil_mode=True)
        if self._new_channels:
            shortcut_BCHW = functional.pad(shortcut_BCHW, (0, 0, 0, 0, 0, self._new_channels))
        output_BCHW: Tensor = shortcut_BCHW + self.shakedrop(self.residual(maps_BCHW))
        return output_BCHW


class PyramidNet(nn.Module):
    """An additive PyramidNet for small images.

    Block k of N has floor(16 + alpha k / N) filters. (The paper's recurrence rounds down at each step; taken to the
    letter it would stand still for alpha < N, so the sum is carried unrounded. The authors' program rounds to nearest,
    which gives up to 2 % more parameters than the paper's table.)

    Args:
        depth: of the layers with weights: 6n + 2 of basic blocks (110), 9n + 2 of bottlenecks (164, 272).
        alpha: widening factor, at least 0: the last block's filters less 16.
        classes: K.
        channels: C of the input.
        block: ``basic`` or ``bottleneck``.
        survival: ShakeDrop's probability to keep the last block's branch as it is, in [0, 1]; block k of N has
            1 - (1 - survival) k / N. 1 switches ShakeDrop off; its paper takes 0.5.
        shakedrop_level: see :class:`ShakeDrop`.

    Raises:
        ValueError: no n at least 1 gives that depth, or another argument is out of range.
    """

    def __init__(
        self,
        *,
        depth: int,
        alpha: int,
        classes: int,
        channels: int = 3,
        block: str = "basic",
        survival: float = 1.0,
        shakedrop_level: str = "image",
    ) -> None:
        super().__init__()
        if block not in _LAYERS:
            raise ValueError(f"block: got {block!r}; must be one of {', '.join(_LAYERS)}")
        if alpha < 0:
            raise ValueError(f"alpha: got {alpha}; must be at least 0")
        layers = _LAYERS[block]
        group, rest = divmod(depth - 2, layers)
        if group < 1 or rest:
            raise ValueError(f"depth: got {depth}; must be {layers}n + 2 with n at least 1, of {block} blocks")
        self.stem = nn.Sequential(nn.Conv2d(channels, _STEM, 3, padding=1, bias=False), nn.BatchNorm2d(_STEM))
        blocks: list[nn.Module] = []
        width = _STEM
        for position in range(1, 3 * group + 1):
            filters = _STEM + alpha * position // (3 * group)
            stride = 2 if position in (group + 1, 2 * group + 1) else 1
            shakedrop = ShakeDrop(1 - (1 - survival) * position / (3 * group), shakedrop_level)
            blocks.append(_Block(width, filters, stride, block, shakedrop))
            width = filters * _EXPANSION[block]
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, classes)
        draw_weights(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        maps_BCHW = self.blocks(self.stem(images_BCHW))
        logits_BK: Tensor = self.linear(functional.relu(self.bn(maps_BCHW)).mean(dim=(2, 3)))
        return logits_BK
