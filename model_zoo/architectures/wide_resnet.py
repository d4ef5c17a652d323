"""Wide ResNets for small images, of depth 6n + 4 and width k.

Source: Zagoruyko and Komodakis, "Wide Residual Networks" (BMVC 2016, arXiv 1605.07146), table 1: blocks
B(3,3) with pre-activation.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.initialisation import draw_weights


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        is_same = stride == 1 and channels_in == channels_out
        self.shortcut = None if is_same else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        active_BCHW = functional.relu(self.bn1(maps_BCHW))
        # Where the shape changes, the shortcut starts behind the first activation.
        shortcut_BCHW = maps_BCHW if self.shortcut is None else self.shortcut(active_BCHW)
        hidden_BCHW = self.dropout(functional.relu(self.bn2(self.conv1(active_BCHW))))
        output_BCHW: Tensor = shortcut_BCHW + self.conv2(hidden_BCHW)
        return output_BCHW


class WideResNet(nn.Module):
    """WRN-depth-width.

    Args:
        depth: 6n + 4 with n at least 1, such as 16, 28, 40.
        width: k; the groups have 16k, 32k and 64k filters.
        classes: K.
        channels: C of the input.
        dropout: share of activations dropped between a block's convolutions in training.

    Raises:
        ValueError: no n gives that depth.
    """

    def __init__(self, *, depth: int, width: int, classes: int, channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth: got {depth}; must be 6n + 4 with n at least 1")
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.group1 = _group(16, 16 * width, blocks, 1, dropout)
        self.group2 = _group(16 * width, 32 * width, blocks, 2, dropout)
        self.group3 = _group(32 * width, 64 * width, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.linear = nn.Linear(64 * width, classes)
        draw_weights(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        maps_BCHW = self.group3(self.group2(self.group1(self.conv(images_BCHW))))
        logits_BK: Tensor = self.linear(functional.relu(self.bn(maps_BCHW)).mean(dim=(2, 3)))
        return logits_BK


def _group(channels_in: int, channels_out: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    rest = (_Block(channels_out, channels_out, 1, dropout) for _ in range(blocks - 1))
    return nn.Sequential(_Block(channels_in, channels_out, stride, dropout), *rest)
