"""VGG for small images: the published convolutions with batch normalisation, and one linear layer in place of three.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks" (ICLR 2015, arXiv 1409.1556), table 1, columns A, B,
D and E. Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) and a single linear layer over the 512 features
of the last pixel are what versions for CIFAR have.
"""
# Shapes: B rows, C channels, H height, W width, K classes.

from torch import Tensor, nn

from model_zoo.architectures.initialisation import draw_weights

CONVOLUTIONS: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth → 3x3 convolutions in each of the five groups that end in a max-pool."""
_MULTIPLES = (1, 2, 4, 8, 8)


class Vgg(nn.Module):
    """VGG-11, 13, 16 or 19 with batch normalisation.

    Args:
        depth: one of 11, 13, 16, 19: the source's layers with weights, of which the last three are one here.
        classes: K.
        channels: C of the input.
        width: filters of the first group; the others have 2, 4, 8 and 8 times as many. 64 is the source's.

    Raises:
        ValueError: another depth.
    """

    def __init__(self, *, depth: int, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"depth: got {depth}; must be one of {', '.join(map(str, CONVOLUTIONS))}")
        layers: list[nn.Module] = []
        filters = channels
        for count, multiple in zip(CONVOLUTIONS[depth], _MULTIPLES, strict=True):
            for _ in range(count):
                layers += [
                    nn.Conv2d(filters, width * multiple, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width * multiple),
                    nn.ReLU(),
                ]
                filters = width * multiple
            # Rounded up, so that images of fewer than 32 pixels, such as 28, are left with a last pixel too.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(filters, classes)
        draw_weights(self)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        logits_BK: Tensor = self.linear(self.features(images_BCHW).mean(dim=(2, 3)))
        return logits_BK
