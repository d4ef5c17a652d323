"""ResNet-9, the network of fast CIFAR training.

Source: Page, "How to Train Your ResNet" (2018-2019), the network of its DAWNBench entry.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from collections import OrderedDict

from torch import Tensor, nn


class _Residual(nn.Module):
    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.first = _conv(channels, channels, activation)
        self.second = _conv(channels, channels, activation)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        output_BCHW: Tensor = maps_BCHW + self.second(self.first(maps_BCHW))
        return output_BCHW


class ResNet9(nn.Module):
    """Eight 3x3 convolutions and one linear layer: at width 64 and 32x32 pixels 6.573 M parameters, 379 M MACs.

    Args:
        classes: K.
        channels: C of the input.
        width: filters of the first convolution; 2, 4 and 8 times as many follow.
        logit_scale: the linear layer's output is multiplied by this.
        celu_alpha: CELU with this alpha instead of ReLU; 0 keeps ReLU.
    """

    def __init__(
        self, *, classes: int, channels: int = 3, width: int = 64, logit_scale: float = 0.125, celu_alpha: float = 0.0
    ) -> None:
        super().__init__()
        activation = nn.CELU(celu_alpha) if celu_alpha else nn.ReLU()
        self.features = nn.Sequential(
            OrderedDict(
                prep=_conv(channels, width, activation),
                layer1=_conv(width, 2 * width, activation, pool=True),
                residual1=_Residual(2 * width, activation),
                layer2=_conv(2 * width, 4 * width, activation, pool=True),
                layer3=_conv(4 * width, 8 * width, activation, pool=True),
                residual3=_Residual(8 * width, activation),
            )
        )
        self.linear = nn.Linear(8 * width, classes, bias=False)
        self._logit_scale = logit_scale

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W], H and W at least 8."""
        # At 32x32 this is the source's max-pool of 4; other sizes work too.
        features_BC = self.features(images_BCHW).amax(dim=(2, 3))
        logits_BK: Tensor = self.linear(features_BC) * self._logit_scale
        return logits_BK


def _conv(channels_in: int, channels_out: int, activation: nn.Module, *, pool: bool = False) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        bn=nn.BatchNorm2d(channels_out),
        activation=activation,
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)
