"""What a run tells of itself: a report an epoch, and a result at its end."""

from collections.abc import Callable
from dataclasses import dataclass

from training.energy import Energy


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What an epoch came to.

    Seconds, evaluations and memory count from the run's start, over all the processes it was resumed in.

    Attributes:
        epoch: from 1.
        epochs: planned.
        loss: mean over the epoch's images, unweighted, with label smoothing and augmentation.
        accuracy: share of its images that were right when they were trained on.
        validation_accuracy: top-1 on unseen images, by the averaged weights where there are any; None where it was not
            measured.
        lr: learning rate of its last step.
        evaluations: single images that the model was trained on.
        proxy_evaluations: single images that the proxy of an in-loop filter was trained on beside; 0 without one.
        seconds: wall-clock time inside epochs; neither validation nor checkpoints.
        process_seconds: CPU time of the process inside epochs, summed over its threads.
        input_seconds: part of ``seconds`` that went to choosing, gathering and augmenting images; on a GPU only the
            time in which they were asked for.
        peak_memory_bytes: largest so far: on a GPU of its allocated memory, on a CPU of the whole process.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    validation_accuracy: float | None = None
    lr: float
    evaluations: int
    proxy_evaluations: int = 0
    seconds: float
    process_seconds: float
    input_seconds: float
    peak_memory_bytes: int

    def is_due(self, every: int) -> bool:
        """Tell whether what happens every so many epochs, and at the run's end, happens after this one."""
        return self.epoch % every == 0 or self.epoch == self.epochs


Progress = Callable[[EpochReport], None]
"""Called after each epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        reports: one an epoch, those before a resume included.
        evaluations: single images trained on.
        seconds: wall-clock time inside epochs.
        process_seconds: CPU time inside epochs, summed over threads.
        wall_seconds: of the call that finished the run, from its resume on, with validation, logs and checkpoints.
        peak_memory_bytes: as in the reports.
        energy: what the run used, over all its processes; its numbers are None where nothing measured them.
    """

    reports: tuple[EpochReport, ...]
    evaluations: int
    seconds: float
    process_seconds: float
    wall_seconds: float
    peak_memory_bytes: int
    energy: Energy
