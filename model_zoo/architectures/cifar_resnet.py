"""CIFAR ResNets of depth 6n + 2 with shortcuts that have no parameters.

Source: He et al., "Deep Residual Learning for Image Recognition" (2015, arXiv 1512.03385), section 4.2; shortcuts are
its option A. Parameter names are those of the weights in common circulation.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from torch import Tensor, nn
from torch.nn import functional

from model_zoo.architectures.shortcut import padded_shortcut


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self._stride = stride
        self._new_channels = channels_out - channels_in

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        residual_BCHW = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps_BCHW)))))
        shortcut_BCHW = padded_shortcut(maps_BCHW, stride=self._stride, new_channels=self._new_channels)
        return functional.relu(residual_BCHW + shortcut_BCHW)


class CifarResNet(nn.Module):
    """A ResNet for small images.

    Args:
        depth: of the layers with weights; 6n + 2 with n at least 1, such as 20, 32, 44, 56, 110.
        classes: K.
        channels: C of the input.
        width: filters of the first group; the others have 2 and 4 times as many. 16 is the source's, less makes a
            thinner and cheaper network.

    Raises:
        ValueError: no n gives that depth.
    """

    def __init__(self, *, depth: int, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth: got {depth}; must be 6n + 2 with n at least 1")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _group(width, width, blocks, stride=1)
        self.layer2 = _group(width, 2 * width, blocks, stride=2)
        self.layer3 = _group(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        maps_BCHW = functional.relu(self.bn1(self.conv1(images_BCHW)))
        maps_BCHW = self.layer3(self.layer2(self.layer1(maps_BCHW)))
        logits_BK: Tensor = self.linear(maps_BCHW.mean(dim=(2, 3)))
        return logits_BK


def _group(channels_in: int, channels_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (_Block(channels_out, channels_out, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(channels_in, channels_out, stride), *rest)
