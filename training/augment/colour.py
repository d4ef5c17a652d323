"""Batched kernels that change colours: equal to torchvision's to the bit, and several times faster on a CPU.

torchvision's own kernels multiply uint8 by a float pixel by pixel, choose by ``where`` on uint8, and smooth by a
grouped convolution; all three are slow on a CPU. Here one conversion to float32 comes first, and the same arithmetic
follows in the same order.
"""
# Shapes: B images, C channels (1 or 3), H height, W width.

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

_WHITE = 255


def brighten(images_BCHW: Tensor, factor: float) -> Tensor:
    """Multiply uint8 images by a factor of at least 0: 0 is black, 1 changes nothing."""
    return _to_uint8(images_BCHW.float().mul_(factor))


def saturate(images_BCHW: Tensor, factor: float) -> Tensor:
    """Blend with the grey image: 0 is grey, 1 changes nothing. Images of one channel stay as they are."""
    if images_BCHW.shape[1] == 1:
        return images_BCHW
    float_BCHW = images_BCHW.float()
    grey_B1HW = _grey(float_BCHW)
    return _to_uint8(float_BCHW.mul_(factor).add_(grey_B1HW, alpha=1.0 - factor))


def contrast(images_BCHW: Tensor, factor: float) -> Tensor:
    """Blend with the mean grey of each image: 0 is one grey, 1 changes nothing."""
    float_BCHW = images_BCHW.float()
    mean_B111 = _grey(float_BCHW).mean(dim=(-3, -2, -1), keepdim=True)
    return _to_uint8(float_BCHW.mul_(factor).add_(mean_B111, alpha=1.0 - factor))


def sharpen(images_BCHW: Tensor, factor: float) -> Tensor:
    """Blend with the smoothed image: 0 is smooth, 1 changes nothing, above is sharper; the outermost pixels stay.

    The smoothing is PIL's: (the 3 x 3 neighbours' sum + 4 times the pixel) / 13.
    """
    if min(images_BCHW.shape[-2:]) <= 2:
        return images_BCHW
    float_BCHW = images_BCHW.float()
    inner_BCHW = float_BCHW[..., 1:-1, 1:-1]
    lines_BCHW = float_BCHW[..., :-2, :] + float_BCHW[..., 1:-1, :]
    lines_BCHW += float_BCHW[..., 2:, :]
    smooth_BCHW = lines_BCHW[..., :-2] + lines_BCHW[..., 1:-1]
    smooth_BCHW += lines_BCHW[..., 2:]
    # Sums of whole numbers are exact, and thirteenths never lie half-way: rounding can't differ from a convolution's.
    smooth_BCHW.add_(inner_BCHW, alpha=4).div_(13).round_()
    inner_BCHW.add_(smooth_BCHW.sub_(inner_BCHW), alpha=1.0 - factor)
    return _to_uint8(float_BCHW)


def solarize(images_BCHW: Tensor, threshold: float) -> Tensor:
    """Invert the values from a threshold on; above 255 nothing changes."""
    # True is the byte 1, whose negative has all bits set: an exclusive or with it inverts.
    return images_BCHW ^ (images_BCHW >= threshold).view(torch.uint8).neg_()


def posterize(images_BCHW: Tensor, bits: int) -> Tensor:
    """Keep the highest 0 to 8 bits of each value."""
    return _tensor(functional.posterize(images_BCHW, bits))


def invert(images_BCHW: Tensor) -> Tensor:
    """Give 255 - value."""
    return ~images_BCHW


def stretch_contrast(images_BCHW: Tensor) -> Tensor:
    """Stretch each channel of each image to 0..255 (PIL's autocontrast)."""
    return _tensor(functional.autocontrast(images_BCHW))


def equalize(images_BCHW: Tensor) -> Tensor:
    """Even out each channel's histogram (PIL's equalize)."""
    return _tensor(functional.equalize(images_BCHW))


def _grey(float_BCHW: Tensor) -> Tensor:
    """Give torchvision's grey of images that hold whole numbers, [B, 1, H, W]."""
    if float_BCHW.shape[1] == 1:
        return float_BCHW
    red_BHW, green_BHW, blue_BHW = float_BCHW.unbind(1)
    grey_BHW = red_BHW.mul(0.2989).add_(green_BHW, alpha=0.587).add_(blue_BHW, alpha=0.114)
    return grey_BHW.unsqueeze(1).floor_()


def _to_uint8(float_BCHW: Tensor) -> Tensor:
    """Clip to 0..255 and cut off the fraction, as torchvision and PIL do."""
    return float_BCHW.clamp_(0, _WHITE).to(torch.uint8)


def _tensor(images: object) -> Tensor:
    """Tell the type checker what torchvision's untyped kernels give."""
    assert isinstance(images, Tensor)
    return images
