"""Small convolutional networks for 8x8 grey digits, in four sizes of about fourfold FLOPs each."""
# Shapes: B rows, C channels, H height, W width, K classes.

from collections.abc import Sequence

from torch import Tensor, nn

SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "xs": ((4, 2),),
    "s": ((8, 2), (12, 2)),
    "m": ((8, 1), (16, 2)),
    "l": ((16, 1), (32, 2), (48, 2)),
}
"""Size → (filters, stride) of each 3x3 convolution."""


class DigitsCnn(nn.Module):
    """Some 3x3 convolutions with batch normalisation and ReLU, then one linear layer over the flattened maps.

    Args:
        layers: (filters, stride) of each convolution.
        classes: K.
        channels: C of the input.
        image_size: H and W of the input, pixels.
    """

    def __init__(
        self, *, layers: Sequence[tuple[int, int]], classes: int, channels: int = 1, image_size: int = 8
    ) -> None:
        super().__init__()
        convolutions: list[nn.Module] = []
        filters, size = channels, image_size
        for channels_out, stride in layers:
            convolutions += [
                nn.Conv2d(filters, channels_out, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
            ]
            filters, size = channels_out, -(-size // stride)
        self.features = nn.Sequential(*convolutions)
        self.linear = nn.Linear(filters * size * size, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give logits float32 [B, K] for normalised images float32 [B, C, H, W]."""
        logits_BK: Tensor = self.linear(self.features(images_BCHW).flatten(1))
        return logits_BK
