"""A first layer of frozen filters that make patches of the input white; training sets them from its images.

Source: Page, "How to Train Your ResNet 8: Bag of Tricks" (2019), and Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
Single GPU" (2024, arXiv 2404.00498), frozen patch-whitening.
"""

from torch import nn


class WhiteningConv2d(nn.Conv2d):
    """A convolution whose weights are not trained; a bias is.

    Until ``training.whitening`` sets them, the weights are random.

    Args:
        channels: of the input.
        kernel_size: side of a patch, pixels.
        has_both_signs: each filter comes a second time with its sign turned, which a rectifier then keeps (airbench);
            otherwise once (Page).
        epsilon: added to the variances of the whitened directions, so that noise is not blown up.
        padding: pixels of zeros around the input.
        bias: whether there is one; it starts at 0.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        has_both_signs: bool,
        epsilon: float,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        patch_size = channels * kernel_size**2
        super().__init__(channels, (1 + has_both_signs) * patch_size, kernel_size, padding=padding, bias=bias)
        self.has_both_signs = has_both_signs
        self.epsilon = epsilon
        self.weight.requires_grad = False
        if self.bias is not None:
            nn.init.zeros_(self.bias)
