"""Mean and spread of a data set's pixels, exact and in bounded memory."""
# Shapes: B rows, HWC image, C channels.

from dataclasses import dataclass
from math import sqrt

import numpy as np

from cascade_serve.core.arrays import ImageArray
from training.errors import DataError
from training.inputs import Normalisation

_CHUNK_VALUES = 1 << 22
"""Pixel values that are widened at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelStatistics:
    """What a channel's pixels come to.

    Attributes:
        normalisation: mean and (population's) standard deviation, on the scale where white is 1.
        fill: the mean colour as pixels 0..255, one a channel: what augmentation puts where an image has nothing.
    """

    normalisation: Normalisation
    fill: tuple[int, ...]


def channel_statistics(images_BHWC: ImageArray) -> ChannelStatistics:
    """Measure all pixels of some images, channel by channel.

    Sums are whole numbers of any size, so that neither the number of images nor their order changes the result.

    Args:
        images_BHWC: uint8 [B, H, W, C], at least one.

    Raises:
        DataError: there are no pixels, or a channel has one value only and can't be normalised.
    """
    rows, height, width, channels = images_BHWC.shape
    pixels = rows * height * width
    if pixels == 0:
        raise DataError(f"images: got {list(images_BHWC.shape)}; must hold at least one pixel")
    counts_C256 = _histograms(images_BHWC)
    values_256 = range(256)
    means, deviations = [], []
    for channel in range(channels):
        counts = [int(count) for count in counts_C256[channel]]
        total = sum(value * count for value, count in zip(values_256, counts, strict=True))
        squares = sum(value * value * count for value, count in zip(values_256, counts, strict=True))
        spread = pixels * squares - total * total
        if spread == 0:
            raise DataError(f"channel {channel}: got {total // pixels} for all pixels; must vary to be normalised")
        means.append(total / pixels)
        deviations.append(sqrt(spread) / pixels)
    return ChannelStatistics(
        normalisation=Normalisation(
            mean=tuple(mean / 255 for mean in means), std=tuple(deviation / 255 for deviation in deviations)
        ),
        fill=tuple(round(mean) for mean in means),
    )


def _histograms(images_BHWC: ImageArray) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Count each value of each channel: int64 [C, 256]."""
    rows, height, width, channels = images_BHWC.shape
    counts_C256 = np.zeros((channels, 256), dtype=np.int64)
    step = max(1, _CHUNK_VALUES // (height * width * channels))
    for start in range(0, rows, step):
        part = images_BHWC[start : start + step].reshape(-1, channels)
        for channel in range(channels):
            counts_C256[channel] += np.bincount(part[:, channel], minlength=256)
    return counts_C256
