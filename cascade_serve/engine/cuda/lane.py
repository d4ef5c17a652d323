"""A lane runs one batch at a time: its own buffers on host and device, and, on CUDA, its own stream and graphs."""
# Shapes: B rows of a batch, K classes.

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from cascade_serve.core.arrays import BoolArray, FloatArray, ImageArray, IntArray
from cascade_serve.engine.cuda.columns import INPUT_COLUMNS, OUTPUT_COLUMNS, Block
from cascade_serve.engine.cuda.step import Step
from cascade_serve.errors import MemberError


@dataclass(frozen=True, slots=True)
class Load:
    """What a batch is told of its rows; see ``INPUT_COLUMNS``.

    Attributes:
        slot_B: int64 [B], 1 to the largest bucket.
        threshold_B: float32 [B].
        is_first_B, is_last_B: bool [B].
        wants_probabilities: copy them back.
    """

    slot_B: IntArray
    threshold_B: FloatArray
    is_first_B: BoolArray
    is_last_B: BoolArray
    wants_probabilities: bool = True

    def row(self, row: int) -> "Load":
        """Give one row as a load of its own."""
        one = slice(row, row + 1)
        return Load(
            self.slot_B[one], self.threshold_B[one], self.is_first_B[one], self.is_last_B[one], self.wants_probabilities
        )


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a batch said of its rows; see ``OUTPUT_COLUMNS``. Views of a lane's buffers, until its next launch.

    Attributes:
        label_B: int64 [B].
        confidence_B: float32 [B]; NaN where no member had a usable answer.
        usable_B, confident_B, exits_B, fails_B: bool [B].
        probabilities_BK: float32 [B, K], or None where the load did not want them.
    """

    label_B: IntArray
    confidence_B: FloatArray
    usable_B: BoolArray
    confident_B: BoolArray
    exits_B: BoolArray
    fails_B: BoolArray
    probabilities_BK: FloatArray | None


class Lane(Protocol):
    """Runs one batch at a time. Used by one thread, but for :meth:`prepare`, which comes first."""

    def prepare(self, member: int, rows: int) -> None:
        """Do for a member and a bucket what is done once: capture, or at least allocate.

        Raises:
            MemberError: the member fails.
        """
        ...

    def launch(self, member: int, load: Load) -> None:
        """Let a batch begin; may return before it has ended.

        Raises:
            MemberError: the member fails.
        """
        ...

    def wait(self) -> Verdicts:
        """Wait for the end of the batch that was launched.

        Raises:
            MemberError: the member failed.
        """
        ...


class Executor(Protocol):
    """A device with the rows on it."""

    @property
    def lanes(self) -> Sequence[Lane]:
        """Batches that may run at the same time."""
        ...

    def upload(self, slots: Sequence[int], images_BHWC: ImageArray) -> None:
        """Copy images, uint8 [B, H, W, C], into their slots; from any thread.

        May return before they are there: whatever is launched later waits for them on the device.

        Raises:
            MemberError: the device takes nothing any more.
        """
        ...

    def close(self) -> None:
        """Free the device; no lane is running any more."""
        ...


class Port:
    """A bucket's buffers in one lane. On a CPU host and device are the same memory.

    Args:
        rows: of the bucket.
        classes: K.
        device: where batches run.
        padding_slot: stands for the rows that only fill the bucket.
    """

    def __init__(self, rows: int, classes: int, device: torch.device, padding_slot: int) -> None:
        is_apart = device.type != "cpu"
        host = torch.device("cpu")
        self.rows = rows
        self._padding_slot = padding_slot
        # Only pinned memory is copied without waiting; from any other CUDA copies through a buffer of its own.
        self.host_inputs = Block(INPUT_COLUMNS, rows, host, pin_memory=is_apart)
        self.host_outputs = Block(OUTPUT_COLUMNS, rows, host, pin_memory=is_apart)
        self.host_probabilities_BK = torch.zeros((rows, classes), dtype=torch.float32, pin_memory=is_apart)
        self.inputs = Block(INPUT_COLUMNS, rows, device) if is_apart else self.host_inputs
        self.outputs = Block(OUTPUT_COLUMNS, rows, device) if is_apart else self.host_outputs
        self.probabilities_BK = (
            torch.zeros((rows, classes), dtype=torch.float32, device=device) if is_apart else self.host_probabilities_BK
        )
        self._told = self.host_inputs.arrays()
        self._said = self.host_outputs.arrays()
        self._probabilities_BK: FloatArray = self.host_probabilities_BK.numpy()

    def fill(self, load: Load) -> None:
        """Write a batch's terms, and in the rest of the bucket rows that nobody asks about."""
        rows, told = len(load.slot_B), self._told
        told["slot"][:rows] = load.slot_B
        told["slot"][rows:] = self._padding_slot
        told["threshold"][:rows] = load.threshold_B
        told["threshold"][rows:] = np.inf
        told["is_first"][:rows] = load.is_first_B
        told["is_first"][rows:] = True
        told["is_last"][:rows] = load.is_last_B
        told["is_last"][rows:] = False

    def verdicts(self, load: Load) -> Verdicts:
        """Read what the batch said; the copies have ended."""
        rows, said = len(load.slot_B), self._said
        return Verdicts(
            label_B=said["label"][:rows],
            confidence_B=said["confidence"][:rows],
            usable_B=said["usable"][:rows],
            confident_B=said["confident"][:rows],
            exits_B=said["exits"][:rows],
            fails_B=said["fails"][:rows],
            probabilities_BK=self._probabilities_BK[:rows] if load.wants_probabilities else None,
        )


def padding_load(rows: int, padding_slot: int) -> Load:
    """Give a load whose rows are nobody's, for warming up."""
    return Load(
        slot_B=np.full(rows, padding_slot, dtype=np.int64),
        threshold_B=np.full(rows, np.inf, dtype=np.float32),
        is_first_B=np.ones(rows, dtype=np.bool_),
        is_last_B=np.zeros(rows, dtype=np.bool_),
    )


class Ports:
    """A lane's buffers, one set a bucket, each alone at its addresses for ever: graphs remember them.

    Args:
        buckets: rows of each, ascending.
        step: gives slab and classes.
        device: where batches run.
    """

    def __init__(self, buckets: Sequence[int], step: Step, device: torch.device) -> None:
        classes = step.slab.sum_RK.shape[1]
        self._buckets = tuple(buckets)
        self._ports = [Port(rows, classes, device, step.slab.padding_slot) for rows in buckets]

    def for_rows(self, rows: int) -> Port:
        """Give the smallest bucket that holds so many rows."""
        return self._ports[bisect_left(self._buckets, rows)]


class EagerLane:
    """A lane on the CPU: a launch runs to its end; see :class:`Lane`."""

    def __init__(self, step: Step, buckets: Sequence[int]) -> None:
        self._step = step
        self._ports = Ports(buckets, step, torch.device("cpu"))
        self._verdicts: Verdicts | None = None

    def prepare(self, member: int, rows: int) -> None:
        """Run once, as first calls allocate; see the protocol."""
        self.launch(member, padding_load(rows, self._step.slab.padding_slot))

    def launch(self, member: int, load: Load) -> None:
        """Run; see the protocol."""
        port = self._ports.for_rows(len(load.slot_B))
        port.fill(load)
        try:
            with torch.inference_mode():
                self._step.run(member, port.inputs.columns, port.outputs.columns, port.probabilities_BK)
        except RuntimeError as error:
            raise MemberError(str(error)) from error
        self._verdicts = port.verdicts(load)

    def wait(self) -> Verdicts:
        """Give what the launch said; see the protocol."""
        assert self._verdicts is not None, "nothing was launched"
        return self._verdicts


class EagerExecutor:
    """The CPU as a device; see :class:`Executor`.

    Args:
        step: with slab and members on the CPU.
        num_lanes: batches that run at the same time.
        buckets: batch sizes, ascending.
    """

    def __init__(self, step: Step, num_lanes: int, buckets: Sequence[int]) -> None:
        self.lanes = tuple(EagerLane(step, buckets) for _ in range(num_lanes))
        self._images_RHWC = step.slab.images_RHWC.numpy()

    def upload(self, slots: Sequence[int], images_BHWC: ImageArray) -> None:
        """Copy images in; see the protocol."""
        self._images_RHWC[np.asarray(slots)] = images_BHWC

    def close(self) -> None:
        """Do nothing: memory goes with the last reference."""
