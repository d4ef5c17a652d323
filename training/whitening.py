"""Filters that whiten patches of the input, computed from training images and frozen.

Source: Page, "How to Train Your ResNet 8: Bag of Tricks" (2019): the principal directions of 3x3 patches, each divided
by its standard deviation; and Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024, arXiv 2404.00498),
frozen patch-whitening: 2x2 patches, each filter with both signs. Both take moments about 0, not about the mean, since
pixels are normalised; so does this.
"""
# Shapes: B rows, C channels, H height, W width, P values of a patch (C x kernel x kernel).

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cascade_serve.core.arrays import ImageArray
from model_zoo.architectures.whitening_layer import WhiteningConv2d
from training.data.images import LabelledImages
from training.errors import DataError
from training.inputs import Normalisation, Normaliser, to_device

DEFAULT_IMAGES = 5_000
# Patches at a time; with 27 values each, 14 MiB in double precision.
_CHUNK_PATCHES = 1 << 16


def patch_moments(
    images_BHWC: ImageArray, normalisation: Normalisation, kernel_size: int, *, device: str | torch.device = "cpu"
) -> Tensor:
    """Average the outer products of all patches with themselves, a part of the images at a time.

    Args:
        images_BHWC: uint8, at least one, no smaller than a patch.
        normalisation: of the pixels.
        kernel_size: side of a patch, pixels.
        device: that works.

    Returns:
        float64 [P, P], on the CPU: second moments about 0. A patch is in the order of a convolution's weights: channel,
        row, column.

    Raises:
        DataError: there is no image, images are smaller than a patch, or have other channels than the normalisation.
    """
    rows, height, width, channels = images_BHWC.shape
    if rows == 0 or min(height, width) < kernel_size or channels != len(normalisation.mean):
        raise DataError(
            f"images: got {list(images_BHWC.shape)}; must be at least one of {len(normalisation.mean)} channels, "
            f"no smaller than {kernel_size} x {kernel_size} pixels"
        )
    patches_per_image = (height - kernel_size + 1) * (width - kernel_size + 1)
    chunk = max(1, _CHUNK_PATCHES // patches_per_image)
    values = channels * kernel_size**2
    sums_PP: Tensor = torch.zeros(values, values, dtype=torch.float64, device=device)
    normalise = Normaliser(normalisation, device)
    for start in range(0, rows, chunk):
        images_BCHW = normalise(to_device(images_BHWC[start : start + chunk], device)).double()
        patches_BPL = functional.unfold(images_BCHW, kernel_size)
        # As torch.einsum would have it, the whole chunk is put in another order first, which takes three times as long.
        sums_PP += torch.bmm(patches_BPL, patches_BPL.transpose(1, 2)).sum(dim=0)
    moments_PP: Tensor = sums_PP.cpu() / (rows * patches_per_image)
    return moments_PP


def whitening_weights(
    images_BHWC: ImageArray,
    normalisation: Normalisation,
    *,
    kernel_size: int,
    epsilon: float,
    device: str | torch.device = "cpu",
) -> Tensor:
    """Give the filters that turn patches into uncorrelated values of variance 1.

    Args:
        images_BHWC: uint8 training images.
        normalisation: of the pixels.
        kernel_size: side of a patch, pixels.
        epsilon: at least 0, added to the variances: directions of much less variance stay small instead of noise being
            blown up.
        device: that works.

    Returns:
        float32 [P, C, kernel, kernel], on the CPU, by falling variance; signs are such that each filter's value
        furthest from 0 is positive, so that the same images give the same filters.

    Raises:
        DataError: as :func:`patch_moments`.
    """
    moments_PP = patch_moments(images_BHWC, normalisation, kernel_size, device=device)
    variances_P, directions_PP = torch.linalg.eigh(moments_PP)
    filters_PP = (directions_PP / (variances_P.clamp(min=0) + epsilon).sqrt()).T.flip(0)
    furthest_P1 = filters_PP.gather(1, filters_PP.abs().argmax(dim=1, keepdim=True))
    signed_PP: Tensor = filters_PP * furthest_P1.sign()
    return signed_PP.reshape(-1, images_BHWC.shape[3], kernel_size, kernel_size).float()


def apply_whitening(
    model: nn.Module, data: LabelledImages, normalisation: Normalisation, *, num_images: int = DEFAULT_IMAGES
) -> bool:
    """Set a model's whitening layer, if it has one, from training images.

    Args:
        model: changed in place; where it lies, the work is done.
        data: training images.
        normalisation: of the pixels.
        num_images: that are looked at, spread evenly over the data, which may be sorted by class.

    Returns:
        whether there was a whitening layer.

    Raises:
        DataError: as :func:`patch_moments`.
    """
    layers = [module for module in model.modules() if isinstance(module, WhiteningConv2d)]
    if not layers:
        return False
    rows = np.linspace(0, len(data) - 1, min(num_images, len(data))).round().astype(np.int64)
    for layer in layers:
        weights_PCHW = whitening_weights(
            data.images_BHWC[rows],
            normalisation,
            kernel_size=layer.kernel_size[0],
            epsilon=layer.epsilon,
            device=layer.weight.device,
        )
        both = torch.cat([weights_PCHW, -weights_PCHW]) if layer.has_both_signs else weights_PCHW
        with torch.no_grad():
            layer.weight.copy_(both)
    return True
