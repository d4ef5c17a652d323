"""ResNet-9, the network of fast CIFAR training, with its author's later tricks as switches.

Source: Page, "How to Train Your ResNet" (2018-2019): the network of its DAWNBench entry (part 4) and the "Bag of
Tricks" (part 8).
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from model_zoo.architectures.ghost_norm import make_norm
from model_zoo.architectures.whitening_layer import WhiteningConv2d

TRICKS: dict[str, bool | int | float] = {
    "celu_alpha": 0.3,
    "pool_before_norm": True,
    "ghost_batch_size": 32,
    "frozen_scales": True,
    "whitening": True,
    "logit_scale": 1 / 16,
}
"""Arguments of the network at the end of the ladder (part 8, "Input patch whitening" and after)."""

# Page's; airbench takes 5e-4.
_WHITENING_EPSILON = 1e-2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """How a convolution goes on."""

    celu_alpha: float
    pools_before_norm: bool
    ghost_batch_size: int
    has_scales: bool

    def convolve(self, channels_in: int, channels_out: int, *, size: int = 3, pool: bool = False) -> nn.Sequential:
        """Build convolution, normalisation and activation, with a max-pool of 2 if asked for."""
        layers = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(channels_in, channels_out, size, padding=size // 2, bias=False)
        )
        if pool and self.pools_before_norm:
            layers["pool"] = nn.MaxPool2d(2)
        layers["bn"] = make_norm(channels_out, ghost_batch_size=self.ghost_batch_size, has_scale=self.has_scales)
        layers["activation"] = nn.CELU(self.celu_alpha) if self.celu_alpha else nn.ReLU()
        if pool and not self.pools_before_norm:
            layers["pool"] = nn.MaxPool2d(2)
        return nn.Sequential(layers)


class _Residual(nn.Module):
    def __init__(self, channels: int, layer: _Layer) -> None:
        super().__init__()
        self.first = layer.convolve(channels, channels)
        self.second = layer.convolve(channels, channels)

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
        pool_before_norm: max-pool before normalisation instead of after activation, which saves time and changes
            nothing but through the batch's statistics, as both others are monotonic while scales are positive.
        ghost_batch_size: rows that are normalised together in training; 0 takes the whole batch.
        frozen_scales: normalisation scales stay at 1; the source then trains biases at 64 times the rate, with CELU's
            alpha 0.3 and a logit scale of 1/16.
        whitening: the first convolution is replaced by frozen filters that whiten 3x3 patches, and a trained 1x1 one.

    Raises:
        ValueError: celu_alpha or ghost_batch_size is below 0.
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 3,
        width: int = 64,
        logit_scale: float = 0.125,
        celu_alpha: float = 0.0,
        pool_before_norm: bool = False,
        ghost_batch_size: int = 0,
        frozen_scales: bool = False,
        whitening: bool = False,
    ) -> None:
        super().__init__()
        # Below 0, CELU grows exponentially on one side.
        if not celu_alpha >= 0:
            raise ValueError(f"celu_alpha: got {celu_alpha}; must be at least 0")
        layer = _Layer(
            celu_alpha=celu_alpha,
            pools_before_norm=pool_before_norm,
            ghost_batch_size=ghost_batch_size,
            has_scales=not frozen_scales,
        )
        self.whitening: WhiteningConv2d | None = None
        if whitening:
            self.whitening = WhiteningConv2d(
                channels, 3, has_both_signs=False, epsilon=_WHITENING_EPSILON, padding=1, bias=False
            )
        self.features = nn.Sequential(
            OrderedDict(
                prep=layer.convolve(channels, width)
                if self.whitening is None
                else layer.convolve(self.whitening.out_channels, width, size=1),
                layer1=layer.convolve(width, 2 * width, pool=True),
                residual1=_Residual(2 * width, layer),
                layer2=layer.convolve(2 * width, 4 * width, pool=True),
                layer3=layer.convolve(4 * width, 8 * width, pool=True),
                residual3=_Residual(8 * width, layer),
            )
        )
        self.linear = nn.Linear(8 * width, classes, bias=False)
        self._logit_scale = logit_scale

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W], H and W at least 8."""
        maps_BCHW = images_BCHW if self.whitening is None else self.whitening(images_BCHW)
        # At 32x32 this is the source's max-pool of 4; other sizes work too.
        features_BC = self.features(maps_BCHW).amax(dim=(2, 3))
        logits_BK: Tensor = self.linear(features_BC) * self._logit_scale
        return logits_BK
