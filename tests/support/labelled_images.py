"""Small labelled images for tests."""

import numpy as np

from training.data.images import LabelledImages


def make_data(labels: list[int], classes: int = 3, channels: int = 1, first_id: int = 0) -> LabelledImages:
    """Give images of 4x5 pixels, each with pixels of its own."""
    rows = len(labels)
    pixels = (np.arange(rows * 4 * 5 * channels, dtype=np.int64) + 20 * first_id) % 251
    return LabelledImages(
        images_BHWC=pixels.astype(np.uint8).reshape(rows, 4, 5, channels),
        labels_B=np.array(labels, dtype=np.int64),
        ids_B=np.arange(first_id, first_id + rows, dtype=np.int64),
        classes=tuple("äbc"[:classes]),
    )
