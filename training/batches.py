"""From an epoch's plan to its batches: rows are gathered and augmented some thousand images at a time."""
# Shapes: E rows of an epoch, B rows of a batch, C channels, H height, W width.

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from types import TracebackType

from torch import Tensor

from training.data.device import DeviceImages
from training.data_schedule.protocol import EpochPlan
from training.steps import Batch

_CHUNK_ROWS = 4096
"""Images that are augmented together: a call's fixed price is paid once for them."""
_CHUNK_BYTES = 64 << 20
"""Pixels that are augmented together at most, so that large images take no more memory than small ones."""

Augment = Callable[[Tensor, Tensor], Tensor]
"""From uint8 images [B, C, H, W] and their ids [B] to augmented ones."""


class Stopwatch:
    """Sums up the wall-clock time spent inside ``with`` blocks.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._entered_s = 0.0

    def __enter__(self) -> None:
        self._entered_s = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += time.perf_counter() - self._entered_s


def cut_batches(num_rows: int, batch_size: int) -> tuple[tuple[int, int], ...]:
    """Cut rows into as few batches as ``batch_size`` allows, of equal size up to one row.

    A small last batch would give batch normalisation poor statistics, or none at all of a single image.

    Returns:
        first row and one past the last, of each batch.
    """
    count = math.ceil(num_rows / batch_size)
    return tuple(pairwise(batch * num_rows // count for batch in range(count + 1)))


def iterate_batches(
    data: DeviceImages, plan: EpochPlan, batch_size: int, augment: Augment, input_watch: Stopwatch
) -> Iterator[Batch]:
    """Give an epoch's batches in the order of its plan.

    Args:
        data: all training images.
        plan: which ones, and what their losses weigh.
        batch_size: images a batch at most.
        augment: called on some thousand images at a time.
        input_watch: measures gathering and augmenting.
    """
    with input_watch:
        rows_E = plan.rows_E.to(data.device, non_blocking=True)
        weights_E = None if plan.weights_E is None else plan.weights_E.to(data.device, non_blocking=True)
    for cuts in _chunks(cut_batches(len(rows_E), batch_size), data.images_NCHW[0].numel()):
        start, stop = cuts[0][0], cuts[-1][1]
        with input_watch:
            rows = rows_E[start:stop]
            ids = data.ids_N[rows]
            images_BCHW = augment(data.images_NCHW[rows], ids)
            labels = data.labels_N[rows]
        for first, last in cuts:
            part = slice(first - start, last - start)
            yield Batch(
                rows_B=rows[part],
                images_BCHW=images_BCHW[part],
                labels_B=labels[part],
                ids_B=ids[part],
                weights_B=None if weights_E is None else weights_E[first:last],
            )


def _chunks(cuts: Sequence[tuple[int, int]], image_bytes: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Group batches into chunks of some thousand images, at least one batch each."""
    largest = cuts[0][1] - cuts[0][0] + 1
    rows = min(_CHUNK_ROWS, _CHUNK_BYTES // image_bytes)
    batches = max(1, rows // largest)
    for start in range(0, len(cuts), batches):
        yield cuts[start : start + batches]
