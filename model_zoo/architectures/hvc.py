"""The capsule network on which dynamic data was shown: plain convolutions, homogeneous vector capsules, no routing.

Sources: Sanderson and Kalganova (2022, arXiv 2208.02007), whose network this is; Byerly, Kalganova and Dear, "No
Routing Needed Between Capsules" (2021, arXiv 2001.09136), whose capsules and filters it has.

Reconstructed, as the first leaves it open:
- Capsules are taken position by position: the 160 channels of one pixel of the last map are one capsule of dimension
  160 (the second source's "xyz" kind, not its "zxy", whose capsules are the pixels of one channel).
- The normalisation of the class vectors has statistics, a scale and an offset for each of their dimensions, which the
  classes share; that of the lengths has them for each class.
- There is one branch, behind the last convolution. The second source's network for MNIST has two more, behind the third
  and the sixth, and adds their logits.
"""
# Shapes: B rows, C channels, H height, W width, K classes, N capsules, D dimensions of a capsule.

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

FILTERS = (32, 48, 64, 80, 96, 112, 128, 144, 160)
"""Of the nine convolutions; the last is the capsules' dimension."""
# The published program of the second source draws all weights by TensorFlow's default normal, of this deviation.
_DEVIATION = 0.05


class HvcNetwork(nn.Module):
    """3x3 convolutions without padding, and one layer of homogeneous vector capsules.

    A class's vector is the sum over the capsules of their element-wise products with the class's weights, normalised
    and activated; its logit is that vector's length, normalised. Each convolution takes two pixels off: 28 leave a map
    of 10x10, 100 capsules.

    Args:
        classes: K.
        channels: C of the input.
        image_size: H and W of the input, pixels; above twice the number of convolutions.
        filters: of each convolution.

    Raises:
        ValueError: the image is too small for so many convolutions.
    """

    def __init__(
        self, *, classes: int, channels: int = 3, image_size: int = 32, filters: Sequence[int] = FILTERS
    ) -> None:
        super().__init__()
        size = image_size - 2 * len(filters)
        if size < 1:
            raise ValueError(
                f"image_size: got {image_size}; must be above {2 * len(filters)} for {len(filters)} filters"
            )
        layers: list[nn.Module] = []
        width = channels
        for channels_out in filters:
            layers += [nn.Conv2d(width, channels_out, 3, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
            width = channels_out
        self.features = nn.Sequential(*layers)
        self.capsules_KND = nn.Parameter(torch.empty(classes, size * size, width))
        self.bn_vectors = nn.BatchNorm1d(width)
        self.bn_logits = nn.BatchNorm1d(classes)
        for weight in (self.capsules_KND, *(layer.weight for layer in layers if isinstance(layer, nn.Conv2d))):
            nn.init.normal_(weight, std=_DEVIATION)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W], at the size it was built for."""
        capsules_BDN = self.features(images_BCHW).flatten(2)
        # As one matrix product a dimension; the products written out would take K times the maps' memory.
        vectors_BDK = torch.einsum("bdn,knd->bdk", capsules_BDN, self.capsules_KND)
        vectors_BDK = functional.relu(self.bn_vectors(vectors_BDK))
        # NOTE: torch gives this norm gradient 0 at 0, where sqrt(sum of squares) would give NaN.
        logits_BK: Tensor = self.bn_logits(torch.linalg.vector_norm(vectors_BDK, dim=1))
        return logits_BK
