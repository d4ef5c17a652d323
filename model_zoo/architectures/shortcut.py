"""The shortcut without parameters that CIFAR ResNets take where a block changes the shape."""
# Shapes: B rows, C channels, H height, W width.

from torch import Tensor
from torch.nn import functional


def padded_shortcut(maps_BCHW: Tensor, *, stride: int, new_channels: int) -> Tensor:
    """Take every ``stride``-th pixel, and add channels of zeros on both sides of those that there are.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2015, arXiv 1512.03385), section 4.1, option A.

    Args:
        maps_BCHW: float [B, C, H, W].
        stride: pixels, at least 1.
        new_channels: how many to add; 0 with stride 1 gives the maps as they are.
    """
    if stride == 1 and new_channels == 0:
        return maps_BCHW
    before = new_channels // 2
    kept_BCHW = maps_BCHW[:, :, ::stride, ::stride]
    return functional.pad(kept_BCHW, (0, 0, 0, 0, before, new_channels - before))
