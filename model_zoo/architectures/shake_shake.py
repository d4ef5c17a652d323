"""Shake-Shake: ResNets of two residual branches, whose sum is weighted at random, anew on the way back.

Source: Gastaldi, "Shake-Shake regularization" (2017, arXiv 1705.07485): its Shake-Shake-Image, and its network for
CIFAR-10. The first group's shortcut, at the full size, is as in its published program.
"""
# Shapes: B rows, C channels, H height, W width, K classes; 1 a dimension that broadcasts.

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.initialisation import draw_weights
from model_zoo.architectures.shake import draw_uniform, scale_both_ways

_BACKWARD = ("shake", "even")


class _Shortcut(nn.Module):
    """Two 1x1 convolutions for half of the filters each, the second on the maps moved by one pixel; joined."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.straight = nn.Conv2d(channels_in, channels_out // 2, 1, stride=stride, bias=False)
        self.shifted = nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, active_BCHW: Tensor) -> Tensor:
        # Right and down: with a stride of 2, the pixels that the other convolution skips.
        moved_BCHW = functional.pad(active_BCHW[:, :, :-1, :-1], (1, 0, 1, 0))
        joined_BCHW = torch.cat([self.straight(active_BCHW), self.shifted(moved_BCHW)], dim=1)
        output_BCHW: Tensor = self.bn(joined_BCHW)
        return output_BCHW


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, backward_noise: str) -> None:
        super().__init__()
        self.branch1 = _branch(channels_in, channels_out, stride)
        self.branch2 = _branch(channels_in, channels_out, stride)
        is_same = stride == 1 and channels_in == channels_out
        self.shortcut = None if is_same else _Shortcut(channels_in, channels_out, stride)
        self._backward_noise = backward_noise

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        active_BCHW = functional.relu(maps_BCHW)
        shortcut_BCHW = maps_BCHW if self.shortcut is None else self.shortcut(active_BCHW)
        output_BCHW: Tensor = shortcut_BCHW + self._mix(self.branch1(active_BCHW), self.branch2(active_BCHW))
        return output_BCHW

    def _mix(self, first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
        """Weight the branches, image by image: alpha and 1 - alpha forward, beta and 1 - beta backward."""
        if not self.training:
            return 0.5 * (first_BCHW + second_BCHW)
        shape = (len(first_BCHW), 1, 1, 1)
        alpha_B111 = draw_uniform(first_BCHW, *shape)
        beta_B111 = (
            draw_uniform(first_BCHW, *shape) if self._backward_noise == "shake" else torch.full_like(alpha_B111, 0.5)
        )
        return scale_both_ways(first_BCHW, alpha_B111, beta_B111) + scale_both_ways(
            second_BCHW, 1 - alpha_B111, 1 - beta_B111
        )


def _branch(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """Give a branch from behind its first activation, which the two share."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class ShakeShake(nn.Module):
    """Shake-Shake depth 2 x width d, with noise per image; in evaluation each branch counts half.

    In training mode the noise comes from the global generator of the input's device.

    Args:
        depth: 6n + 2 with n at least 1; 26 is the source's.
        width: filters of the first group's convolutions, such as 32 or 96; the others have 2 and 4 times as many.
        classes: K.
        channels: C of the input.
        backward_noise: ``shake`` draws the gradient's weights anew (the source's Shake-Shake-Image); ``even`` takes
            halves (Shake-Even-Image).

    Raises:
        ValueError: no n gives that depth, or no such noise.
    """

    def __init__(
        self, *, depth: int = 26, width: int, classes: int, channels: int = 3, backward_noise: str = "shake"
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth: got {depth}; must be 6n + 2 with n at least 1")
        if backward_noise not in _BACKWARD:
            raise ValueError(f"backward_noise: got {backward_noise!r}; must be one of {', '.join(_BACKWARD)}")
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        layers: list[nn.Module] = []
        filters = 16
        for group in range(3):
            channels_out = width * 2**group
            for position in range(blocks):
                stride = 2 if group and position == 0 else 1
                layers.append(_Block(filters, channels_out, stride, backward_noise))
                filters = channels_out
        self.blocks = nn.Sequential(*layers)
        self.linear = nn.Linear(filters, classes)
        draw_weights(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        maps_BCHW = self.blocks(self.stem(images_BCHW))
        logits_BK: Tensor = self.linear(functional.relu(maps_BCHW).mean(dim=(2, 3)))
        return logits_BK
