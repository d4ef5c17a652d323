"""The images that trials learn from: a stratified random part of the training images."""
# Shapes: N rows of the whole, B rows of the part.

import numpy as np

from cascade_serve.core.arrays import IntArray


def stratified_rows(labels_N: IntArray, size: int, generator: np.random.Generator) -> IntArray:
    """Draw rows with the classes in their shares.

    Args:
        labels_N: int64 [N].
        size: rows to draw, at most N.
        generator: of the rows within each class, and of which classes get the odd rows; advanced.

    Returns:
        int64 [B], sorted. No class has more or fewer rows than its share of ``size`` by one or more.
    """
    if size > len(labels_N):
        raise ValueError(f"size: got {size}; must be at most {len(labels_N)}")
    classes, counts = np.unique(labels_N, return_counts=True)
    whole, remainders = np.divmod(counts * size, len(labels_N))
    # The odd rows go to the largest remainders; among equals, by chance.
    order = np.lexsort((generator.random(len(classes)), -remainders))
    whole[order[: size - int(whole.sum())]] += 1
    rows = [
        generator.choice(np.flatnonzero(labels_N == label), count, replace=False)
        for label, count in zip(classes, whole, strict=True)
    ]
    drawn_B: IntArray = np.sort(np.concatenate(rows)).astype(np.int64)
    return drawn_B
