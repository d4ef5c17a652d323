"""The airbench networks: VGG-like, six to nine 3x3 convolutions behind a whitening layer.

Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024, arXiv 2404.00498); sizes are those of its
programs airbench94, 95, 96 and of the later airbench94_muon and airbench96_faster.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_zoo.architectures.ghost_norm import make_norm
from model_zoo.architectures.whitening_layer import WhiteningConv2d

SIZES: dict[str, tuple[tuple[int, int, int], int, float]] = {
    "airbench94": ((64, 256, 256), 2, 0.4),
    "airbench95": ((128, 384, 384), 2, 0.4),
    "airbench96": ((128, 512, 512), 3, 0.1),
    "airbench96_faster": ((128, 384, 512), 3, 0.1),
    "airbench96_proxy": ((32, 64, 64), 2, 0.1),
}
"""Name → widths, depth of a group and momentum of its norms."""

_WHITENING_EPSILON = 5e-4


class _Group(nn.Module):
    """Two or three convolutions, the first one pooled; with three, a residual around the last two."""

    def __init__(self, channels_in: int, channels_out: int, depth: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, channels_out)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(channels_out, norm_momentum)
        self.conv2 = _conv(channels_out, channels_out)
        self.norm2 = _norm(channels_out, norm_momentum)
        self.conv3 = _conv(channels_out, channels_out) if depth == 3 else None
        self.norm3 = _norm(channels_out, norm_momentum) if depth == 3 else None
        self.activation = nn.GELU()

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        pooled_BCHW = self.activation(self.norm1(self.pool(self.conv1(maps_BCHW))))
        hidden_BCHW: Tensor = self.activation(self.norm2(self.conv2(pooled_BCHW)))
        if self.conv3 is None or self.norm3 is None:
            return hidden_BCHW
        output_BCHW: Tensor = self.activation(self.norm3(self.conv3(hidden_BCHW)) + pooled_BCHW)
        return output_BCHW


class AirbenchNet(nn.Module):
    """Frozen whitening of 2x2 patches, three groups of convolutions, a max-pool and a linear layer.

    Convolutions start as the identity of their first channels (dirac), the rest as torch draws them; normalisation has
    no trained scale.

    Args:
        widths: filters of the three groups.
        classes: K.
        channels: C of the input.
        depth: convolutions of a group: 2, or 3 with a residual.
        logit_scale: the linear layer's output is multiplied by this.
        norm_momentum: share of a new batch in the norms' running statistics.
        has_unit_head: the linear layer's first weights are scaled to standard deviation 1, as airbench94_muon does.

    Raises:
        ValueError: there are not three widths, the depth is neither 2 nor 3, or the momentum is not in (0, 1].
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        classes: int,
        channels: int = 3,
        depth: int = 2,
        logit_scale: float = 1 / 9,
        norm_momentum: float = 0.4,
        has_unit_head: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ValueError(f"widths: got {list(widths)}; must be three")
        if depth not in (2, 3):
            raise ValueError(f"depth: got {depth}; must be 2 or 3")
        if not 0 < norm_momentum <= 1:
            raise ValueError(f"norm_momentum: got {norm_momentum}; must be above 0 and at most 1")
        self.whitening = WhiteningConv2d(channels, 2, has_both_signs=True, epsilon=_WHITENING_EPSILON)
        self.activation = nn.GELU()
        inputs = (self.whitening.out_channels, *widths[:-1])
        self.groups = nn.Sequential(
            *(_Group(before, after, depth, norm_momentum) for before, after in zip(inputs, widths, strict=True))
        )
        self.head = nn.Linear(widths[-1], classes, bias=False)
        self._logit_scale = logit_scale
        if has_unit_head:
            with torch.no_grad():
                self.head.weight.div_(self.head.weight.std())

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W], H and W at least 9."""
        maps_BCHW = self.groups(self.activation(self.whitening(images_BCHW)))
        # At 32x32 this is the source's max-pool of 3; other sizes work too.
        logits_BK: Tensor = self.head(maps_BCHW.amax(dim=(2, 3))) * self._logit_scale
        return logits_BK


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:channels_in])
    return conv


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    # The programs add 1e-12 to variances; a channel that is constant over a batch, as where images have an even
    # background, would then get gradients a million times as large. On photographs both come to the same.
    return make_norm(channels, has_scale=False, momentum=momentum)
