"""From an epoch's plan to its batches: rows are gathered and augmented some thousand at a time, then normalised."""
# Shapes: E rows of an epoch, B rows of a batch, C channels, H height, W width.

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from training.data.device import DeviceImages
from training.data_schedule.protocol import EpochPlan
from training.inputs import Normalisation, Normaliser
from training.steps import Batch
from training.tally import Stopwatch

_CHUNK_ROWS = 4096
"""Images that are augmented together: a call's fixed price is paid once for them."""
_CHUNK_BYTES = 64 << 20
"""Pixels that are augmented together at most, so that large images take no more memory than small ones."""

Augment = Callable[[Tensor, Tensor], Tensor]
"""From uint8 images [B, C, H, W] and their ids [B] to augmented ones."""


class BatchSource:
    """Makes batches of a data set that lies on a device.

    Args:
        data: all training images.
        normalisation: of the pixels.
        batch_size: images a batch at most.
        channels_last: memory format of the batches.
    """

    def __init__(
        self, data: DeviceImages, normalisation: Normalisation, *, batch_size: int, channels_last: bool
    ) -> None:
        self._data = data
        self._batch_size = batch_size
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._normalise = Normaliser(normalisation, data.device, memory_format)

    def batches(self, plan: EpochPlan, augment: Augment, watch: Stopwatch) -> Iterator[Batch]:
        """Give an epoch's batches in the order of its plan.

        Args:
            plan: which images, and what their losses weigh.
            augment: called on some thousand images at a time.
            watch: measures gathering and augmenting.
        """
        rows_E = plan.rows_E.to(self._data.device, non_blocking=True)
        weights_E = None if plan.weights_E is None else plan.weights_E.to(self._data.device, non_blocking=True)
        cuts = cut_batches(len(rows_E), self._batch_size)
        for chunk in _chunks(cuts, self._data.images_NCHW[0].numel()):
            start, stop = chunk[0][0], chunk[-1][1]
            with watch:
                rows = rows_E[start:stop]
                ids, labels = self._data.ids_N[rows], self._data.labels_N[rows]
                images_BCHW = augment(self._data.images_NCHW[rows], ids)
            for first, last in chunk:
                part = slice(first - start, last - start)
                yield Batch(
                    rows_B=rows[part],
                    # Batch by batch, since the result takes four times the memory.
                    inputs_BCHW=self._normalise(images_BCHW[part]),
                    labels_B=labels[part],
                    ids_B=ids[part],
                    weights_B=None if weights_E is None else weights_E[first:last],
                )


def cut_batches(num_rows: int, batch_size: int) -> tuple[tuple[int, int], ...]:
    """Cut rows into batches of ``batch_size``; where some are left over, the last two share theirs and these.

    A small last batch would give batch normalisation poor statistics, or none at all of a single image; the last two
    have at least half of the rows. All others have the same size, whatever a data schedule makes of an epoch's length:
    a GPU looks for its fastest algorithms, and a compiler works, once for each size.

    Args:
        num_rows: at least 1.
        batch_size: at least 1.

    Returns:
        first row and one past the last, of each batch.
    """
    whole, rest = divmod(num_rows, batch_size)
    sizes = [batch_size] * whole
    if rest:
        shared = rest + (sizes.pop() if sizes else 0)
        sizes += [shared - shared // 2, shared // 2] if whole else [shared]
    return tuple(pairwise(accumulate(sizes, initial=0)))


def _chunks(cuts: Sequence[tuple[int, int]], image_bytes: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Group batches into chunks of some thousand images, at least one batch each."""
    largest = cuts[0][1] - cuts[0][0]
    rows = min(_CHUNK_ROWS, _CHUNK_BYTES // image_bytes)
    batches = max(1, rows // largest)
    for start in range(0, len(cuts), batches):
        yield cuts[start : start + batches]
